/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * mangen.c - a manual page from its text: mangen < man/dsrun.1.in > man/dsrun.1
 *
 * Lines that are only @NAME@ are replaced by a table of the code, so that the manual cannot say
 * anything else than the program: @commands@, @options@, @options COMMAND@, @exits@,
 * @keys SECTION@, @wires@ and @signals@.  In a line, @version@ and the other words of `words` are
 * replaced.  Everything else is copied.
 */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "base/exit.h"
#include "base/wire.h"
#include "cli/opt.h"
#include "runtime/job_table.h"

enum { LINE_BYTES = 1000 };

/* Text for troff: hyphens that are minus signs, backslashes; nothing that starts a request. */
static void put(const char *text)
{
    if (*text == '.' || *text == '\'')
        (void)printf("\\&");
    for (; *text != '\0'; text++) {
        if (*text == '-')
            (void)printf("\\-");
        else if (*text == '\\')
            (void)printf("\\e");
        else
            (void)putchar(*text);
    }
}

/* A phrase of the tables as a sentence on a line of its own. */
static void put_sentence(const char *phrase)
{
    char first[2] = {(char)toupper((unsigned char)phrase[0]), '\0'};

    put(first);
    put(phrase + 1);
    (void)printf(".\n");
}

static void put_paragraph(const char *bold, const char *roman)
{
    (void)printf(".TP\n\\fB");
    put(bold);
    (void)printf("\\fR");
    if (roman[0] != '\0') {
        (void)printf(" \\fI");
        put(roman);
        (void)printf("\\fR");
    }
    (void)printf("\n");
}

/* --- dsrun(1) -------------------------------------------------------------------------------- */

static void print_commands(void)
{
    for (size_t i = 0; i < DS_COMMAND_COUNT; i++) {
        put_paragraph(ds_commands[i].name, ds_commands[i].words);
        put_sentence(ds_commands[i].help);
    }
}

/* "Only with plan and ckpt export." where not every command takes the option. */
static void print_takers(const struct ds_option *option)
{
    const char *comma = "Only with ";

    if (option->commands == 0)
        return;
    for (size_t i = 0; i < DS_COMMAND_COUNT; i++) {
        if (!(option->commands & (1u << i)))
            continue;
        (void)printf("%s\\fB", comma);
        put(ds_commands[i].name);
        (void)printf("\\fR");
        comma = ", ";
    }
    (void)printf(".\n");
}

/* The options of all commands, or of the one named. */
static void print_options(const char *command)
{
    size_t count;
    const struct ds_option *options = ds_options(&count);
    uint32_t bit = ~UINT32_C(0);

    for (size_t i = 0; command != NULL && i < DS_COMMAND_COUNT; i++)
        if (strcmp(ds_commands[i].name, command) == 0)
            bit = UINT32_C(1) << i;

    for (size_t i = 0; i < count; i++) {
        const struct ds_option *o = &options[i];
        char name[80];

        if (o->commands != 0 && (o->commands & bit) == 0)
            continue;
        (void)snprintf(name, sizeof(name), "%s%c%s%s", o->letter == 0 ? "" : "-",
                       o->letter == 0 ? ' ' : o->letter, o->letter == 0 ? "" : ", ", o->key.path);
        put_paragraph(name + (o->letter == 0), o->value == NULL ? "" : o->value);
        put_sentence(o->key.help);
        if (o->key.type == DS_KEY_U64 || o->key.type == DS_KEY_F64)
            (void)printf("From %.16g to %.16g.\n", o->key.min, o->key.max);
        if (command == NULL)
            print_takers(o);
    }
}

static void print_exits(void)
{
#define X(id, number, text)                                                                        \
    (void)printf(".TP\n.B %d\n", number);                                                          \
    put_sentence(text);
    DS_EXITS(X)
#undef X
}

/* --- dsrun-wire(7) --------------------------------------------------------------------------- */

static void put_numbered(const char *name, int number, const char *text)
{
    (void)printf(".TP\n.BR %s \" (%d)\"\n", name, number);
    put_sentence(text);
}

static void print_wires(void)
{
#define X(id, number, text) put_numbered(#id, number, text);
    DS_WIRE_TYPES(X)
#undef X
}

static void print_signals(void)
{
#define X(id, number, text) put_numbered(#id, number, text);
    DS_WIRE_SIGNALS(X)
#undef X
}

/* --- dsrun-job(5) ---------------------------------------------------------------------------- */

static void print_choices(const struct ds_key *key, const char *before)
{
    const char *comma = before;

    for (const struct ds_choice *c = key->choices; c->name != NULL; c++) {
        (void)printf("%s\\fB", comma);
        put(c->name);
        (void)printf("\\fR");
        comma = ", ";
    }
    (void)printf(".\n");
}

static void print_values(const struct ds_key *key);

/* The keys of one map of a list. */
static void print_rows(const struct ds_key *key)
{
    if (key->flags & DS_KEY_NAMED)
        (void)printf("A map of names and what follows, or that alone.\n");
    (void)printf(key->flags & DS_KEY_SHORT
                     ? "A text, a list of texts, or a list of at most %.0f texts and maps of these "
                       "keys.\n.RS\n"
                     : "A list of at most %.0f maps of these keys.\n.RS\n",
                 key->max);
    for (size_t i = 0; i < key->rows->count; i++) {
        const struct ds_key *inner = &key->rows->key[i];

        (void)printf(".TP\n.B ");
        put(inner->path);
        (void)printf("\n");
        put_sentence(inner->help);
        print_values(inner);
        if (inner->flags & DS_KEY_REQUIRED)
            (void)printf("Required.\n");
    }
    (void)printf(".RE\n.IP\n");
}

static void print_values(const struct ds_key *key)
{
    const char *to = key->flags & DS_KEY_BELOW ? "to below" : "to";

    switch (key->type) {
    case DS_KEY_BOOL: (void)printf("\\fBtrue\\fR or \\fBfalse\\fR.\n"); break;
    case DS_KEY_U64:
        (void)printf("A whole number from %.16g to %.16g%s.\n", key->min, key->max,
                     key->flags & DS_KEY_AUTO ? ", or \\fBauto\\fR" : "");
        break;
    case DS_KEY_F64: (void)printf("A number from %g %s %g.\n", key->min, to, key->max); break;
    case DS_KEY_PAIR:
        (void)printf("A list of two numbers from %g %s %g.\n", key->min, to, key->max);
        break;
    case DS_KEY_NUMBERS:
        (void)printf("A list of at most %d numbers from %g %s %g.\n", DS_MAX_NUMBERS, key->min, to,
                     key->max);
        break;
    case DS_KEY_TEXT: (void)printf("Text of at most %.0f bytes.\n", key->max); break;
    case DS_KEY_LIST: (void)printf("A text or a list of texts.\n"); break;
    case DS_KEY_ENV: (void)printf("A map of names and texts.\n"); break;
    case DS_KEY_ROWS: print_rows(key); break;
    case DS_KEY_SET: print_choices(key, "A list of: "); break;
    case DS_KEY_WORD:
    case DS_KEY_ENUM:
    default: print_choices(key, "One of: "); break;
    }
}

static void print_default(const struct ds_key *key)
{
    if (key->flags & DS_KEY_REQUIRED) {
        (void)printf("Required.\n");
    } else if (key->def == NULL) {
        (void)printf("No default.\n");
    } else if (strncmp(key->def, "required", 8) == 0) {
        put_sentence(key->def);
    } else {
        (void)printf("Default: %s", key->flags & DS_KEY_DERIVED ? "" : "\\fB");
        put(key->def);
        (void)printf("%s.\n", key->flags & DS_KEY_DERIVED ? "" : "\\fR");
    }
}

/* The keys of one section; "-" is the keys that stand at the top. */
static void print_keys(const char *section)
{
    size_t count, len = strlen(section);
    const struct ds_key *keys = ds_job_keys(&count);

    for (size_t i = 0; i < count; i++) {
        const char *path = keys[i].path;

        if (strcmp(section, "-") == 0 ? strchr(path, '.') != NULL
                                      : strncmp(path, section, len) != 0 || path[len] != '.')
            continue;
        put_paragraph(path, "");
        put_sentence(keys[i].help);
        print_values(&keys[i]);
        print_default(&keys[i]);
    }
}

/* --- the text -------------------------------------------------------------------------------- */

/* Is the line a table's name?  Then print the table. */
static bool print_table(const char *line)
{
    char section[LINE_BYTES];

    if (strcmp(line, "@commands@\n") == 0)
        print_commands();
    else if (strcmp(line, "@options@\n") == 0)
        print_options(NULL);
    else if (sscanf(line, "@options %99[a-z -]@", section) == 1)
        print_options(section);
    else if (strcmp(line, "@wires@\n") == 0)
        print_wires();
    else if (strcmp(line, "@signals@\n") == 0)
        print_signals();
    else if (strcmp(line, "@exits@\n") == 0)
        print_exits();
    else if (sscanf(line, "@keys %99[a-z-]@", section) == 1)
        print_keys(section);
    else
        return false;
    return true;
}

static const struct {
    const char *word;
    const char *text; /* NULL: the number */
    long number;
} words[] = {
    {"@version@", DS_VERSION, 0},
    {"@wire version@", NULL, DS_WIRE_VERSION},
    {"@max frame@", NULL, DS_MAX_FRAME_BYTES},
    {"@max banner@", NULL, DS_MAX_BANNER_BYTES},
    {"@max queue@", NULL, DS_MAX_QUEUE_BYTES},
};

/* The word of the table that stands first in the line, and where. */
static const char *find_word(const char *line, size_t *which)
{
    const char *first = NULL;

    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        const char *at = strstr(line, words[i].word);

        if (at != NULL && (first == NULL || at < first)) {
            first = at;
            *which = i;
        }
    }
    return first;
}

/* A line with its words replaced. */
static void put_line(const char *line)
{
    size_t which = 0;
    const char *at;

    while ((at = find_word(line, &which)) != NULL) {
        (void)printf("%.*s", (int)(at - line), line);
        if (words[which].text != NULL)
            (void)fputs(words[which].text, stdout);
        else
            (void)printf("%ld", words[which].number);
        line = at + strlen(words[which].word);
    }
    (void)fputs(line, stdout);
}

int main(void)
{
    char line[LINE_BYTES];
    size_t which;

    while (fgets(line, sizeof(line), stdin) != NULL) {
        if (find_word(line, &which) != NULL) {
            put_line(line);
        } else if (!print_table(line)) {
            if (line[0] == '@') {
                (void)fprintf(stderr, "mangen: unknown table %s", line);
                return 1;
            }
            (void)fputs(line, stdout);
        }
    }
    return ferror(stdin) || fflush(stdout) != 0;
}
