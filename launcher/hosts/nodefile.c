/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * nodefile.c - the contract is in nodefile.h.
 */
#include "launcher/hosts/nodefile.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/fsio.h"

/* --- what a line says ------------------------------------------------------------------------- */

/* `n` more slots of a host, which is named once a line, and not by a range. */
static int add_slots(struct ds_roster *roster, const char *name, uint32_t n, struct ds_error *err)
{
    const struct ds_host_spec host = {.slots = n};
    struct ds_host_spec *known = ds_roster_find(roster, name);

    if (strchr(name, '[') != NULL)
        return ds_fail(err, EINVAL, "'%.100s' is no name of a host", name);
    if (n > DS_MAX_SLOTS || (known != NULL && known->slots > DS_MAX_SLOTS - n))
        return ds_fail(err, EINVAL, "more than %d slots on host '%.100s'", DS_MAX_SLOTS, name);
    if (known == NULL)
        return ds_roster_add(roster, name, &host, err);
    known->slots += n;
    return 0;
}

/* The next word at *at, which moves behind it; NULL: there is none. */
static char *take_word(char **at)
{
    char *word;

    *at += strspn(*at, " \t\r");
    word = *at;
    *at += strcspn(*at, " \t\r");
    if (**at != '\0')
        *(*at)++ = '\0';
    return *word == '\0' ? NULL : word;
}

/* The slots of a host, a word behind its name. */
static int read_slots(char **at, const char *name, uint32_t *slots, struct ds_error *err)
{
    const char *word = take_word(at);
    size_t digits = word != NULL ? strspn(word, "0123456789") : 0;

    if (word == NULL)
        return ds_fail(err, EINVAL, "no number of slots after '%.100s'", name);
    *slots =
        digits > 0 && digits <= 9 && word[digits] == '\0' ? (uint32_t)strtoul(word, NULL, 10) : 0;
    if (*slots == 0)
        return ds_fail(err, EINVAL, "'%.100s' is no number of slots from 1 to %d", word,
                       DS_MAX_SLOTS);
    return 0;
}

/* "node1" */
static int read_host(struct ds_roster *roster, char *line, struct ds_error *err)
{
    const char *name = take_word(&line), *more = take_word(&line);

    if (name == NULL)
        return 0;
    if (more != NULL)
        return ds_fail(err, EINVAL, "expected a host alone, found '%.100s' after it", more);
    return add_slots(roster, name, 1, err);
}

/* "node1 4 node2 2" */
static int read_pairs(struct ds_roster *roster, char *line, struct ds_error *err)
{
    const char *name;
    uint32_t slots;
    int rc = 0;

    while (rc == 0 && (name = take_word(&line)) != NULL) {
        rc = read_slots(&line, name, &slots, err);
        if (rc == 0)
            rc = add_slots(roster, name, slots, err);
    }
    return rc;
}

/* "node1 4 all.q@node1 UNDEFINED" */
static int read_queue(struct ds_roster *roster, char *line, struct ds_error *err)
{
    const char *name = take_word(&line);
    uint32_t slots;
    int rc;

    if (name == NULL)
        return 0;
    rc = read_slots(&line, name, &slots, err);
    return rc == 0 ? add_slots(roster, name, slots, err) : rc;
}

/* --- which there are -------------------------------------------------------------------------- */

/* clang-format off */
static const struct ds_nodefile files[] = {
    {"PBS",         "PBS_NODEFILE",      false, read_host},
    {"LSF",         "LSB_DJOB_HOSTFILE", false, read_host},
    {"LSF",         "LSB_MCPU_HOSTS",    true,  read_pairs},
    {"Grid Engine", "PE_HOSTFILE",       false, read_queue},
    {"Cobalt",      "COBALT_NODEFILE",   false, read_host},
};
/* clang-format on */

const struct ds_nodefile *ds_nodefile_at(size_t index)
{
    return index < sizeof(files) / sizeof(files[0]) ? &files[index] : NULL;
}

const struct ds_nodefile *ds_nodefile_here(const char **value)
{
    const struct ds_nodefile *file;

    for (size_t i = 0; (file = ds_nodefile_at(i)) != NULL; i++) {
        *value = getenv(file->variable);
        if (*value != NULL && (*value)[0] != '\0')
            return file;
    }
    return NULL;
}

/* --- all of it -------------------------------------------------------------------------------- */

/* One slot on each host says nothing of ranks. */
static void forget_ones(struct ds_roster *roster)
{
    for (size_t i = 0; i < roster->hosts; i++)
        if (roster->host[i].slots != 1)
            return;
    for (size_t i = 0; i < roster->hosts; i++)
        roster->host[i].slots = 0;
}

static int read_lines(struct ds_roster *roster, const struct ds_nodefile *file, char *text,
                      struct ds_error *err)
{
    unsigned number = 0;
    int rc = 0;

    while (rc == 0 && *text != '\0') {
        size_t len = strcspn(text, "\n");
        char *next = text + len + (text[len] == '\n');

        text[len] = '\0';
        number++;
        rc = file->line(roster, text, err);
        text = next;
    }
    return rc == 0 || file->inlined ? rc : ds_error_context(err, rc, "line %u", number);
}

int ds_nodefile_parse(struct ds_roster *roster, const struct ds_nodefile *file, const char *text,
                      size_t len, struct ds_error *err)
{
    char *copy;
    int rc = 0;

    if (len > DS_NODEFILE_BYTES)
        rc = ds_fail(err, EINVAL, "larger than %d bytes", DS_NODEFILE_BYTES);
    else if (memchr(text, '\0', len) != NULL)
        rc = ds_fail(err, EINVAL, "not a text file");
    if (rc != 0)
        return ds_error_context(err, rc, "%s", file->variable);
    copy = ds_arena_strndup(&roster->arena, text, len);
    if (copy == NULL)
        return ds_fail(err, ENOMEM, "no memory for the hosts of %s", file->variable);
    rc = read_lines(roster, file, copy, err);
    if (rc == 0 && roster->hosts == 0)
        rc = ds_fail(err, EINVAL, "no host is named there");
    if (rc == 0)
        forget_ones(roster);
    return ds_error_context(err, rc, "%s", file->variable);
}

int ds_nodefile_load(struct ds_roster *roster, const struct ds_nodefile *file, const char *value,
                     struct ds_error *err)
{
    struct ds_buf text;
    int rc;

    if (file->inlined)
        return ds_nodefile_parse(roster, file, value, strlen(value), err);
    ds_buf_init(&text, DS_NODEFILE_BYTES);
    rc = ds_fs_read(value, DS_NODEFILE_BYTES, &text, err);
    rc = rc != 0 ? ds_error_context(err, rc, "%s", file->variable)
                 : ds_nodefile_parse(roster, file, ds_buf_text(&text), text.len, err);
    ds_buf_release(&text);
    return rc;
}
