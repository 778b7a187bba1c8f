/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * complete.c - the completion scripts, printed from the tables of opt.h: bash compares words, zsh
 * shows what each is.
 *
 * Both go over the words before the cursor, past options and their values, and know then how many
 * words there are, `n`, and which command is the first, `first`; one of two words counts as one.
 * A table says which options that command takes, `takes`; what its words are, `kind`; and, where
 * it is the first word of a group, which come after it, `second`.
 */
#include <stdio.h>
#include <string.h>

#include "cli/opt.h"

enum { WORD_MOST = 64, SECONDS_MOST = 256 };

/* The first words of commands, each once: false after the last; `at` begins at 0. */
static bool next_first(size_t *at, char word[WORD_MOST])
{
    while (*at < DS_COMMAND_COUNT) {
        const struct ds_command *c = &ds_commands[(*at)++];
        int len = (int)strcspn(c->name, " ");

        if (strncmp(word, c->name, (size_t)len) == 0 && word[len] == '\0')
            continue;
        (void)snprintf(word, WORD_MOST, "%.*s", len, c->name);
        return true;
    }
    return false;
}

/* The name of a command behind the first word of its group; NULL: it has one word. */
static const char *second_of(size_t i)
{
    const char *space = strchr(ds_commands[i].name, ' ');

    return space != NULL ? space + 1 : NULL;
}

/* Do two commands have the first word in common, and both a second one? */
static bool same_group(size_t i, size_t k)
{
    size_t len = strcspn(ds_commands[i].name, " ") + 1;

    return k < DS_COMMAND_COUNT && second_of(k) != NULL &&
           strncmp(ds_commands[i].name, ds_commands[k].name, len) == 0;
}

/* Is row `i` the first of its group of commands of two words? */
static bool begins_group(size_t i)
{
    return second_of(i) != NULL && (i == 0 || !same_group(i, i - 1));
}

/* --- what both scripts have ------------------------------------------------------------------ */

/* What the words of a command are: a job and its keys, a program, paths, or nothing to choose. */
static const char *kind_of(const char *words)
{
    if (strstr(words, "key=value") != NULL)
        return "keys";
    if (strstr(words, "PROGRAM") != NULL)
        return "program";
    return strstr(words, "DIR") != NULL || strstr(words, "CKPT") != NULL ||
                   strstr(words, "FILE") != NULL
               ? "paths"
               : "none";
}

/* A pattern of `case`: the options, `--slots` or `-H|--hostfile`, whose value is a word. */
static void put_valued(struct ds_buf *out)
{
    size_t count;
    const struct ds_option *options = ds_options(&count);
    const char *bar = "";

    for (size_t i = 0; i < count; i++) {
        if (options[i].value == NULL)
            continue;
        ds_buf_puts(out, bar);
        if (options[i].letter != 0)
            ds_buf_printf(out, "-%c|", options[i].letter);
        ds_buf_puts(out, options[i].key.path);
        bar = "|";
    }
}

static void put_choices(const struct ds_choice *choice, struct ds_buf *out)
{
    for (; choice->name != NULL; choice++)
        ds_buf_printf(out, " %s", choice->name);
}

/* What can be the value of the option before the cursor: `choose` and `paths` begin and end the
 * commands of the shell that offer words, and files. */
static void put_values(const char *choose, const char *end, const char *paths, struct ds_buf *out)
{
    size_t count;
    const struct ds_option *options = ds_options(&count);

    ds_buf_puts(out, "    case $prev in\n");
    for (size_t i = 0; i < count; i++) {
        const struct ds_option *o = &options[i];

        if (o->value == NULL)
            continue;
        ds_buf_puts(out, "    ");
        if (o->letter != 0)
            ds_buf_printf(out, "-%c|", o->letter);
        ds_buf_printf(out, "%s) ", o->key.path);
        if (o->key.choices != NULL) {
            ds_buf_puts(out, choose);
            put_choices(o->key.choices, out);
            ds_buf_puts(out, end);
        } else if (strcmp(o->value, "FILE") == 0 || strcmp(o->value, "DIR") == 0) {
            ds_buf_puts(out, paths);
        }
        ds_buf_puts(out, "return ;;\n");
    }
    ds_buf_puts(out, "    esac\n");
}

/* ` --slots ...`: the options of the commands whose bit is in `bits`, and of all. */
static void put_taken(uint32_t bits, struct ds_buf *out)
{
    size_t count;
    const struct ds_option *options = ds_options(&count);

    ds_buf_puts(out, "takes='");
    for (size_t i = 0; i < count; i++)
        if (options[i].commands == 0 || (options[i].commands & bits) != 0)
            ds_buf_printf(out, " %s", options[i].key.path);
    ds_buf_puts(out, " '");
}

/* Which command it is, and its row; `item` writes one second word as an array of the shell has it.
 * What is no command is a job file, as behind `run`. */
static void put_table(void (*item)(size_t row, struct ds_buf *out), struct ds_buf *out)
{
    ds_buf_puts(out, "    case $first in\n");
    for (size_t i = 0; i < DS_COMMAND_COUNT; i++) {
        if (!begins_group(i))
            continue;
        ds_buf_printf(out, "    %.*s) ", (int)strcspn(ds_commands[i].name, " "),
                      ds_commands[i].name);
        put_taken(0, out);
        ds_buf_puts(out, "\n    second=(\n");
        for (size_t k = i; k == i || same_group(i, k); k++)
            item(k, out);
        ds_buf_puts(out, "    ) ;;\n");
    }
    ds_buf_puts(out, "    esac\n"
                     "    if [[ ${#second[@]} -gt 0 && $n -gt 1 ]]; then\n"
                     "        first+=\" $other\" n=$((n - 1)) second=()\n"
                     "    fi\n"
                     "    case $first in\n");
    for (size_t i = 0; i < DS_COMMAND_COUNT; i++) {
        ds_buf_printf(out, "    '%s') kind=%s ", ds_commands[i].name,
                      kind_of(ds_commands[i].words));
        put_taken(UINT32_C(1) << i, out);
        ds_buf_puts(out, " ;;\n");
    }
    ds_buf_puts(out, "    *) [[ -n $takes || $n -eq 0 ]] || {\n    n=$((n + 1)) kind=keys ");
    put_taken(UINT32_C(1) << DS_COMMAND_RUN, out);
    ds_buf_puts(out, "\n    } ;;\n    esac\n");
}

static void put_keys(const struct ds_key *keys, size_t count, struct ds_buf *out)
{
    for (size_t i = 0; i < count; i++)
        ds_buf_printf(out, " %s=", keys[i].path);
}

/* --- bash ------------------------------------------------------------------------------------ */

static void bash_item(size_t row, struct ds_buf *out)
{
    ds_buf_printf(out, "        %s\n", second_of(row));
}

/* What follows `key=`, which for bash is a word before the cursor. */
static void bash_key_values(const struct ds_key *keys, size_t count, struct ds_buf *out)
{
    ds_buf_puts(out, "    case $prev in\n");
    for (size_t i = 0; i < count; i++) {
        if (keys[i].choices == NULL)
            continue;
        ds_buf_printf(out, "    %s) mapfile -t COMPREPLY < <(compgen -W '", keys[i].path);
        put_choices(keys[i].choices, out);
        ds_buf_puts(out, "' -- \"$cur\"); return ;;\n");
    }
    ds_buf_puts(out, "    esac\n");
}

static void bash_print(const struct ds_key *keys, size_t count, struct ds_buf *out)
{
    char word[WORD_MOST] = "";
    size_t at = 0;

    ds_buf_puts(out, "# bash completion for dsrun: eval \"$(dsrun --completion bash)\"\n"
                     "_dsrun()\n{\n"
                     "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}\n"
                     "    local i n=0 first= other= kind=none takes= value= second=()\n"
                     "    [[ $cur == = ]] && cur= value=1\n"
                     "    [[ $prev == = ]] && prev=${COMP_WORDS[COMP_CWORD-2]} value=1\n");
    put_values("mapfile -t COMPREPLY < <(compgen -W '", "' -- \"$cur\"); ",
               "mapfile -t COMPREPLY < <(compgen -f -- \"$cur\"); ", out);
    ds_buf_puts(out, "    for ((i = 1; i < COMP_CWORD; i++)); do\n"
                     "        case ${COMP_WORDS[i]} in\n        ");
    put_valued(out);
    ds_buf_puts(out, ")\n"
                     "            i=$((i + 1)); [[ ${COMP_WORDS[i]} == = ]] && i=$((i + 1)) ;;\n"
                     "        -*|=) ;;\n"
                     "        *) n=$((n + 1))\n"
                     "            [[ $n -eq 1 ]] && first=${COMP_WORDS[i]}\n"
                     "            [[ $n -eq 2 ]] && other=${COMP_WORDS[i]} ;;\n"
                     "        esac\n"
                     "    done\n");
    put_table(bash_item, out);
    ds_buf_puts(out, "    [[ $n -gt 0 ]] || ");
    put_taken(UINT32_MAX, out);
    ds_buf_puts(out, "\n    if [[ $cur == -* && $kind$n != program[2-9]* ]]; then\n"
                     "        mapfile -t COMPREPLY < <(compgen -W \"$takes\" -- \"$cur\")\n"
                     "        return\n"
                     "    fi\n"
                     "    if [[ $n -eq 0 ]]; then\n"
                     "        mapfile -t COMPREPLY < <(compgen -W '");
    while (next_first(&at, word))
        ds_buf_printf(out, " %s", word);
    ds_buf_puts(out, "' -- \"$cur\"; compgen -f -- \"$cur\")\n"
                     "        return\n"
                     "    fi\n"
                     "    if [[ ${#second[@]} -gt 0 ]]; then\n"
                     "        mapfile -t COMPREPLY < <(compgen -W \"${second[*]}\" -- \"$cur\")\n"
                     "        return\n"
                     "    fi\n");
    bash_key_values(keys, count, out);
    ds_buf_puts(out, "    case $value$kind$n in\n"
                     "    none*) return ;;\n"
                     "    program1) mapfile -t COMPREPLY < <(compgen -c -- \"$cur\") ;;\n"
                     "    keys1) ;;\n"
                     "    keys*) mapfile -t COMPREPLY < <(compgen -W '");
    put_keys(keys, count, out);
    ds_buf_puts(out, "' -- \"$cur\")\n"
                     "        [[ ${#COMPREPLY[@]} -gt 0 ]] && compopt -o nospace ;;\n"
                     "    esac\n"
                     "    if [[ ${#COMPREPLY[@]} -eq 0 ]]; then\n"
                     "        mapfile -t COMPREPLY < <(compgen -f -- \"$cur\")\n"
                     "    fi\n"
                     "}\n"
                     "complete -o filenames -F _dsrun dsrun\n");
}

/* --- zsh ------------------------------------------------------------------------------------- */

/* 'WORD:what it is', as _describe() wants it, for a list in the script. */
static void zsh_item(const char *word, const char *help, struct ds_buf *out)
{
    ds_buf_printf(out, "        '%s:", word);
    for (; *help != '\0'; help++) {
        if (*help == '\'')
            ds_buf_puts(out, "'\\''");
        else
            (void)ds_buf_put(out, help, 1);
    }
    ds_buf_puts(out, "'\n");
}

/* What a first word is: a command, or the second words behind it. */
static const char *zsh_first(size_t i, char out[SECONDS_MOST])
{
    size_t used = 0;

    if (second_of(i) == NULL)
        return ds_commands[i].help;
    for (size_t k = i; k == i || same_group(i, k); k++)
        if (used < SECONDS_MOST)
            used += (size_t)snprintf(out + used, SECONDS_MOST - used, "%s%s", k == i ? "" : ", ",
                                     second_of(k));
    return out;
}

static void zsh_second(size_t row, struct ds_buf *out)
{
    zsh_item(second_of(row), ds_commands[row].help, out);
}

static void zsh_lists(const struct ds_key *keys, size_t count, struct ds_buf *out)
{
    char word[WORD_MOST] = "", seconds[SECONDS_MOST];
    size_t at = 0, options_count;
    const struct ds_option *options = ds_options(&options_count);

    ds_buf_puts(out, "    options=(\n");
    for (size_t i = 0; i < options_count; i++)
        zsh_item(options[i].key.path, options[i].key.help, out);
    ds_buf_puts(out, "    )\n    commands=(\n");
    while (next_first(&at, word))
        zsh_item(word, zsh_first(at - 1, seconds), out);
    ds_buf_puts(out, "    )\n    keys=(");
    put_keys(keys, count, out);
    ds_buf_puts(out, " )\n");
}

static void zsh_print(const struct ds_key *keys, size_t count, struct ds_buf *out)
{
    ds_buf_puts(out, "#compdef dsrun\n"
                     "# zsh completion for dsrun: this file as _dsrun in a folder of fpath, or\n"
                     "# eval \"$(dsrun --completion zsh)\" after compinit\n"
                     "_dsrun()\n{\n"
                     "    local cur=$words[CURRENT] prev=$words[CURRENT-1]\n"
                     "    local i n=0 first= other= kind=none takes=\n"
                     "    local -a commands second options keys taken\n");
    zsh_lists(keys, count, out);
    put_values("compadd --", "; ", "_files; ", out);
    ds_buf_puts(out, "    for ((i = 2; i < CURRENT; i++)); do\n"
                     "        case $words[i] in\n        ");
    put_valued(out);
    ds_buf_puts(out, ") i=$((i + 1)) ;;\n"
                     "        -*) ;;\n"
                     "        *) n=$((n + 1))\n"
                     "            [[ $n -eq 1 ]] && first=$words[i]\n"
                     "            [[ $n -eq 2 ]] && other=$words[i] ;;\n"
                     "        esac\n"
                     "    done\n");
    put_table(zsh_second, out);
    ds_buf_puts(out, "    if [[ $cur == -* && $kind$n != program[2-9]* ]]; then\n"
                     "        for i in \"${options[@]}\"; do\n"
                     "            [[ $n -gt 0 && $takes != *\" ${i%%:*} \"* ]] || taken+=(\"$i\")\n"
                     "        done\n"
                     "        _describe -o option taken\n"
                     "    elif [[ $n -eq 0 ]]; then\n"
                     "        _describe command commands\n"
                     "        _files\n"
                     "    elif [[ ${#second[@]} -gt 0 ]]; then\n"
                     "        _describe command second\n"
                     "    else\n"
                     "        case $kind$n in\n"
                     "        none*) ;;\n"
                     "        program1) _command_names -e; _files ;;\n"
                     "        keys1|paths*|program*) _files ;;\n"
                     "        *) compadd -S '' -a keys; _files ;;\n"
                     "        esac\n"
                     "    fi\n"
                     "}\n"
                     "if [[ $funcstack[1] == _dsrun ]]; then\n"
                     "    _dsrun \"$@\"\n"
                     "else\n"
                     "    compdef _dsrun dsrun\n"
                     "fi\n");
}

void ds_completion_print(const char *shell, const struct ds_key *keys, size_t count,
                         struct ds_buf *out)
{
    if (strcmp(shell, "zsh") == 0)
        zsh_print(keys, count, out);
    else
        bash_print(keys, count, out);
}
