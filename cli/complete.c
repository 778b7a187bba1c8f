/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * complete.c - the completion scripts, printed from the tables of opt.h: bash compares words, zsh
 * shows what each is.
 */
#include <stdio.h>
#include <string.h>

#include "cli/opt.h"

enum { WORD_MOST = 64, SECONDS_MOST = 256 };

/* Has the value of an option words to choose from, or is it a number or text of one's own? */
static bool is_own(const struct ds_option *option)
{
    return option->key.type == DS_KEY_U64 || option->key.type == DS_KEY_F64 ||
           option->key.type == DS_KEY_LIST;
}

/* The first words of commands, each once: false after the last; `at` begins at 0. */
static bool next_first(size_t *at, char word[WORD_MOST])
{
    while (*at < DS_COMMAND_COUNT) {
        const struct ds_command *c = &ds_commands[(*at)++];
        int len = (int)strcspn(c->name, " ");

        if (!c->supported || (strncmp(word, c->name, (size_t)len) == 0 && word[len] == '\0'))
            continue;
        (void)snprintf(word, WORD_MOST, "%.*s", len, c->name);
        return true;
    }
    return false;
}

/* The name of a command behind the first word of its group; NULL: it has one word, or is not
 * supported. */
static const char *second_of(size_t i)
{
    const char *space = strchr(ds_commands[i].name, ' ');

    return space != NULL && ds_commands[i].supported ? space + 1 : NULL;
}

/* Do two commands have the first word in common, and both a second one? */
static bool same_group(size_t i, size_t k)
{
    size_t len = strcspn(ds_commands[i].name, " ") + 1;

    return k < DS_COMMAND_COUNT && second_of(k) != NULL &&
           strncmp(ds_commands[i].name, ds_commands[k].name, len) == 0;
}

/* --- bash ------------------------------------------------------------------------------------ */

/* The words after which only a file or a value of one's own can come. */
static void bash_values(struct ds_buf *out)
{
    size_t count;
    const struct ds_option *options = ds_options(&count);

    ds_buf_puts(out, "    case $prev in\n");
    for (size_t i = 0; i < count; i++) {
        const struct ds_option *o = &options[i];

        if (o->value == NULL)
            continue;
        ds_buf_printf(out, "    %s) ", o->key.path);
        if (o->key.choices != NULL) {
            ds_buf_puts(out, "COMPREPLY=($(compgen -W '");
            for (const struct ds_choice *c = o->key.choices; c->name != NULL; c++)
                if (!c->reserved)
                    ds_buf_printf(out, "%s ", c->name);
            ds_buf_puts(out, "' -- \"$cur\")); ");
        } else if (!is_own(o)) {
            ds_buf_puts(out, "COMPREPLY=($(compgen -f -- \"$cur\")); ");
        }
        ds_buf_puts(out, "return ;;\n");
    }
    ds_buf_puts(out, "    esac\n");
}

static void bash_seconds(struct ds_buf *out)
{
    ds_buf_puts(out, "    case $prev in\n");
    for (size_t i = 0; i < DS_COMMAND_COUNT; i++) {
        const char *second = second_of(i), *name = ds_commands[i].name;

        if (second == NULL)
            continue;
        if (i == 0 || !same_group(i, i - 1))
            ds_buf_printf(out, "    %.*s) COMPREPLY=($(compgen -W '", (int)(second - name) - 1,
                          name);
        ds_buf_printf(out, "%s ", second);
        if (!same_group(i, i + 1))
            ds_buf_puts(out, "' -- \"$cur\")); return ;;\n");
    }
    ds_buf_puts(out, "    esac\n");
}

static void bash_print(const struct ds_key *keys, size_t count, struct ds_buf *out)
{
    char word[WORD_MOST] = "";
    size_t options_count, at = 0;
    const struct ds_option *options = ds_options(&options_count);

    ds_buf_puts(out, "# bash completion for dsrun: eval \"$(dsrun --completion bash)\"\n"
                     "_dsrun()\n{\n"
                     "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}\n"
                     "    local first='");
    while (next_first(&at, word))
        ds_buf_printf(out, "%s ", word);
    ds_buf_puts(out, "' keys='");
    for (size_t i = 0; i < count; i++) {
        if (!(keys[i].flags & DS_KEY_NO_FIELD))
            ds_buf_printf(out, "%s= ", keys[i].path);
    }
    ds_buf_puts(out, "'\n    local options='");
    for (size_t i = 0; i < options_count; i++)
        ds_buf_printf(out, "%s ", options[i].key.path);
    ds_buf_puts(out, "'\n");
    bash_values(out);
    bash_seconds(out);
    ds_buf_puts(
        out, "    case $cur in\n"
             "    -*) COMPREPLY=($(compgen -W \"$options\" -- \"$cur\")); return ;;\n"
             "    esac\n"
             "    COMPREPLY=($(compgen -f -- \"$cur\"))\n"
             "    if [ \"$COMP_CWORD\" -eq 1 ]; then\n"
             "        COMPREPLY+=($(compgen -W \"$first\" -- \"$cur\"))\n"
             "    else\n"
             "        local match=($(compgen -W \"$keys\" -- \"$cur\"))\n"
             "        [ ${#match[@]} -gt 0 ] && COMPREPLY=(\"${match[@]}\") && compopt -o nospace\n"
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

static void zsh_commands(struct ds_buf *out)
{
    char word[WORD_MOST] = "", seconds[SECONDS_MOST];
    size_t at = 0;

    ds_buf_puts(out, "    first=(\n");
    while (next_first(&at, word))
        zsh_item(word, zsh_first(at - 1, seconds), out);
    ds_buf_puts(out, "    )\n    case $prev in\n");
    for (size_t i = 0; i < DS_COMMAND_COUNT; i++) {
        const char *second = second_of(i), *name = ds_commands[i].name;

        if (second == NULL)
            continue;
        if (i == 0 || !same_group(i, i - 1))
            ds_buf_printf(out, "    %.*s)\n    second=(\n", (int)(second - name) - 1, name);
        zsh_item(second, ds_commands[i].help, out);
        if (!same_group(i, i + 1))
            ds_buf_puts(out, "    ) ;;\n");
    }
    ds_buf_puts(out, "    esac\n");
}

static void zsh_options(struct ds_buf *out)
{
    size_t count;
    const struct ds_option *options = ds_options(&count);

    ds_buf_puts(out, "    options=(\n");
    for (size_t i = 0; i < count; i++)
        zsh_item(options[i].key.path, options[i].key.help, out);
    ds_buf_puts(out, "    )\n    case $prev in\n");
    for (size_t i = 0; i < count; i++) {
        const struct ds_option *o = &options[i];

        if (o->value == NULL)
            continue;
        ds_buf_printf(out, "    %s", o->key.path);
        if (o->letter != 0)
            ds_buf_printf(out, "|-%c", o->letter);
        ds_buf_puts(out, ") ");
        if (o->key.choices != NULL) {
            ds_buf_puts(out, "compadd --");
            for (const struct ds_choice *c = o->key.choices; c->name != NULL; c++)
                if (!c->reserved)
                    ds_buf_printf(out, " %s", c->name);
            ds_buf_puts(out, "; ");
        } else if (!is_own(o)) {
            ds_buf_puts(out, "_files; ");
        }
        ds_buf_puts(out, "return ;;\n");
    }
    ds_buf_puts(out, "    esac\n");
}

static void zsh_print(const struct ds_key *keys, size_t count, struct ds_buf *out)
{
    ds_buf_puts(out, "#compdef dsrun\n"
                     "# zsh completion for dsrun: this file as _dsrun in a folder of fpath, or\n"
                     "# eval \"$(dsrun --completion zsh)\" after compinit\n"
                     "_dsrun()\n{\n"
                     "    local cur=$words[CURRENT] prev=$words[CURRENT-1]\n"
                     "    local -a first second options keys\n");
    zsh_options(out);
    zsh_commands(out);
    ds_buf_puts(out, "    keys=(");
    for (size_t i = 0; i < count; i++) {
        if (!(keys[i].flags & DS_KEY_NO_FIELD))
            ds_buf_printf(out, "%s%s=", i == 0 ? "" : " ", keys[i].path);
    }
    ds_buf_puts(out, ")\n"
                     "    if [[ $cur == -* ]]; then\n"
                     "        _describe -o option options\n"
                     "    elif (( $#second > 0 )); then\n"
                     "        _describe command second\n"
                     "    elif (( CURRENT == 2 )); then\n"
                     "        _describe command first\n"
                     "        _files\n"
                     "    else\n"
                     "        compadd -S '' -a keys\n"
                     "        _files\n"
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
