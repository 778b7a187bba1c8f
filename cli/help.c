/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * help.c - --help and --version, printed from the tables of opt.h.
 */
#include <elf.h>
#include <link.h>
#include <stdio.h>
#include <string.h>

#include "cli/opt.h"

enum { COLUMNS = 80, NAME_COLUMN = 2, TEXT_COLUMN = 31, GROUP_BYTES = 16384 };

/* --- help ------------------------------------------------------------------------------------ */

/* `text` from TEXT_COLUMN on, wrapped at blanks; the line already holds `used` columns. */
static void print_text(const char *text, size_t used, struct ds_buf *out)
{
    size_t room = COLUMNS - TEXT_COLUMN;

    if (used + 2 > TEXT_COLUMN) {
        ds_buf_puts(out, "\n");
        used = 0;
    }
    for (;;) {
        size_t len = strlen(text);

        if (len > room) {
            for (len = room; len > 0 && text[len] != ' '; len--)
                continue;
            len = len == 0 ? room : len;
        }
        ds_buf_printf(out, "%*s%.*s\n", (int)(TEXT_COLUMN - used), "", (int)len, text);
        text += len + (text[len] == ' ');
        if (*text == '\0')
            return;
        used = 0;
    }
}

static void print_option(const struct ds_option *option, struct ds_buf *out)
{
    char name[80], letter[8] = "    ";

    if (option->letter != 0)
        (void)snprintf(letter, sizeof(letter), "-%c, ", option->letter);
    (void)snprintf(name, sizeof(name), "%*s%s%s%s%s", NAME_COLUMN, "", letter, option->key.path,
                   option->value == NULL ? "" : " ", option->value == NULL ? "" : option->value);
    ds_buf_puts(out, name);
    print_text(option->key.help, strlen(name), out);
}

/* The options of one command, or all. */
static void print_options(const struct ds_command *command, struct ds_buf *out)
{
    unsigned bit = command == NULL ? ~0u : 1u << (unsigned)(command - ds_commands);
    size_t count;
    const struct ds_option *options = ds_options(&count);

    ds_buf_puts(out, "\nOptions:\n");
    for (size_t i = 0; i < count; i++) {
        if (options[i].commands == 0 || (options[i].commands & bit) != 0)
            print_option(&options[i], out);
    }
}

/* All commands, or those of a group; how many there are. */
static size_t print_commands(const char *group, struct ds_buf *out)
{
    size_t count = 0;

    for (size_t i = 0; i < DS_COMMAND_COUNT; i++) {
        const struct ds_command *c = &ds_commands[i];
        char name[80];

        if (group != NULL && !ds_command_starts(c, group))
            continue;
        if (count++ == 0)
            ds_buf_puts(out, "\nCommands:\n");
        (void)snprintf(name, sizeof(name), "%*s%s%s%s", NAME_COLUMN, "", c->name,
                       c->words[0] == '\0' ? "" : " ", c->words);
        ds_buf_puts(out, name);
        print_text(c->help, strlen(name), out);
    }
    return count;
}

/* false: there is no such group. */
static bool print_group(const char *group, struct ds_buf *out)
{
    struct ds_buf text;
    bool found;

    ds_buf_init(&text, GROUP_BYTES);
    found = print_commands(group, &text) > 0;
    if (found)
        ds_buf_printf(out,
                      "usage: dsrun %s COMMAND [OPTIONS] WORDS ...\n%s\n"
                      "'dsrun %s COMMAND --help' lists the options of one.\n",
                      group, ds_buf_text(&text), group);
    out->failed = out->failed || text.failed;
    ds_buf_release(&text);
    return found;
}

void ds_help_print(const struct ds_command *command, const char *group, struct ds_buf *out)
{
    if (command != NULL) {
        ds_buf_printf(out, "usage: dsrun %s [OPTIONS]%s%s\n\n%s\n", command->name,
                      command->words[0] == '\0' ? "" : " ", command->words, command->help);
        print_options(command, out);
        return;
    }
    if (group != NULL && print_group(group, out))
        return;
    ds_buf_puts(out, "usage: dsrun [OPTIONS] JOB.yaml [key=value ...]\n"
                     "       dsrun COMMAND [OPTIONS] WORDS ...\n\n"
                     "Train a transformer language model as a job file says. Without a command,\n"
                     "run. Keys of the job file: dsrun-job(5); examples: dsrun(1).\n");
    (void)print_commands(NULL, out);
    print_options(NULL, out);
}

/* --- version --------------------------------------------------------------------------------- */

/* The GNU build id among the notes of one loaded object, in hexadecimal. */
static bool find_build_id(const char *note, size_t len, char *out, size_t cap)
{
    while (len >= sizeof(ElfW(Nhdr))) {
        const ElfW(Nhdr) *head = (const void *)note;
        size_t name = (head->n_namesz + 3u) & ~(size_t)3, desc = (head->n_descsz + 3u) & ~(size_t)3;
        const char *text = note + sizeof(*head);

        if (name > len - sizeof(*head) || desc > len - sizeof(*head) - name)
            return false;
        if (head->n_type == NT_GNU_BUILD_ID && head->n_namesz == 4 && memcmp(text, "GNU", 4) == 0) {
            for (size_t i = 0; i < head->n_descsz && 2 * i + 3 <= cap; i++)
                (void)snprintf(out + 2 * i, 3, "%02x", (unsigned char)text[name + i]);
            return true;
        }
        note += sizeof(*head) + name + desc;
        len -= sizeof(*head) + name + desc;
    }
    return false;
}

struct build_id {
    char hex[65];
};

/* The first object is the program itself. */
static int look_at_object(struct dl_phdr_info *info, size_t size, void *user)
{
    struct build_id *id = user;

    (void)size;
    for (size_t i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &info->dlpi_phdr[i];

        if (part->p_type == PT_NOTE &&
            find_build_id((const char *)(info->dlpi_addr + part->p_vaddr), part->p_memsz, id->hex,
                          sizeof(id->hex)))
            break;
    }
    return 1;
}

void ds_version_print(struct ds_buf *out)
{
    struct build_id id = {"none"};

    (void)dl_iterate_phdr(look_at_object, &id);
    ds_buf_printf(out, "dsrun %s\nbuild id %s\n", DS_VERSION, id.hex);
}
