/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * hostfile.c - which form a hostfile has, and the one-line form.
 *
 *     worker-0 slots=4 user=train port=22 address=10.0.0.7     # comment
 *
 * A file is YAML when its first line that says something looks like a map or a list.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/fsio.h"
#include "base/nearest.h"
#include "launcher/hosts/roster.h"

struct place { /* for messages */
    const char *file;
    unsigned line, column;
};

static int fail_here(struct ds_error *err, const struct place *at, const char *text,
                     const char *what)
{
    return ds_fail(err, EINVAL, "%s:%u:%u: %s '%.100s'", at->file, at->line, at->column, what,
                   text);
}

/* What `word` is called here: another launcher's word for it, or the nearest one; NULL: neither. */
static const char *meant(const char *word, const char *const *known, size_t count)
{
    static const struct {
        const char *theirs, *ours;
    } words[] = {{"gpus", "slots"},   {"gpu", "slots"},        {"ppn", "slots"}, {"np", "slots"},
                 {"addr", "address"}, {"hostname", "address"}, {"ip", "address"}};
    unsigned best = DS_NEAREST_FAR;
    const char *nearest = "";

    for (size_t i = 0; i < count; i++) {
        unsigned distance = ds_edit_distance(word, known[i]);

        for (size_t k = 0; k < sizeof(words) / sizeof(words[0]); k++)
            if (strcmp(words[k].theirs, word) == 0 && strcmp(words[k].ours, known[i]) == 0)
                return known[i];
        if (distance < best) {
            best = distance;
            nearest = known[i];
        }
    }
    return ds_edit_close(best, word) ? nearest : NULL;
}

int ds__hostfile_unknown(const char *word, const char *const *known, size_t count,
                         struct ds_error *err)
{
    const char *one = meant(word, known, count);
    char list[128] = "";
    size_t used = 0;

    if (one != NULL)
        return ds_fail(err, EINVAL, "unknown key '%.100s', did you mean '%s'%s?", word, one,
                       strncmp(word, "gpu", 3) == 0 && strcmp(one, "slots") == 0
                           ? ", the ranks of a host, one for each GPU"
                           : "");
    for (size_t i = 0; i < count && used < sizeof(list); i++)
        used += (size_t)snprintf(list + used, sizeof(list) - used, "%s%s",
                                 i == 0           ? ""
                                 : i + 1 == count ? " and "
                                                  : ", ",
                                 known[i]);
    return ds_fail(err, EINVAL, "unknown key '%.100s': known are %s", word, list);
}

/* "slots" and "port": decimal, 1 .. max. */
static int read_number(const char *value, uint32_t max, uint32_t *out)
{
    size_t digits = strspn(value, "0123456789");
    unsigned long n;

    if (digits == 0 || digits > 9 || value[digits] != '\0')
        return -EINVAL;
    n = strtoul(value, NULL, 10);
    if (n == 0 || n > max)
        return -EINVAL;
    *out = (uint32_t)n;
    return 0;
}

/* "slots" or, `most`, Open MPI's "max_slots". */
static int read_slots(struct ds_host_spec *host, bool most, const char *word, const char *value,
                      const struct place *at, struct ds_error *err)
{
    if (read_number(value, DS_MAX_SLOTS, most ? &host->max_slots : &host->slots) != 0)
        return ds_fail(err, EINVAL, "%s:%u:%u: %s must be a number from 1 to %d, not '%.100s'",
                       at->file, at->line, at->column, word, DS_MAX_SLOTS, value);
    if (host->max_slots != 0 && host->slots > host->max_slots)
        return ds_fail(err, EINVAL, "%s:%u:%u: slots are %u, above max_slots, which are %u",
                       at->file, at->line, at->column, host->slots, host->max_slots);
    return 0;
}

static int read_key(struct ds_host_spec *host, char *word, const struct place *at,
                    struct ds_error *err)
{
    static const char *const known[] = {"slots", "user", "port", "address"};
    char *equals = strchr(word, '=');
    bool most;

    if (equals == NULL || equals[1] == '\0')
        return fail_here(err, at, word, "expected key=value after the host's name, found");
    *equals = '\0';
    most = strcmp(word, "max_slots") == 0 || strcmp(word, "max-slots") == 0;
    if ((strcmp(word, "slots") == 0 && host->slots != 0) || (most && host->max_slots != 0) ||
        (strcmp(word, "port") == 0 && host->port != 0) ||
        (strcmp(word, "user") == 0 && host->user != NULL) ||
        (strcmp(word, "address") == 0 && host->address != NULL))
        return fail_here(err, at, word, "named twice on one line:");
    if (most || strcmp(word, "slots") == 0) {
        return read_slots(host, most, word, equals + 1, at, err);
    } else if (strcmp(word, "port") == 0) {
        if (read_number(equals + 1, 65535, &host->port) != 0)
            return fail_here(err, at, equals + 1, "port must be a number from 1 to 65535, not");
    } else if (strcmp(word, "user") == 0) {
        host->user = equals + 1;
    } else if (strcmp(word, "address") == 0) {
        host->address = equals + 1;
    } else {
        return ds_error_context(
            err, ds__hostfile_unknown(word, known, sizeof(known) / sizeof(known[0]), err),
            "%s:%u:%u", at->file, at->line, at->column);
    }
    return 0;
}

/* Forms of a name that other launchers read: node1:8 and user@node1.  0: it is neither. */
static int refuse_form(const char *name, const struct place *at, unsigned column,
                       struct ds_error *err)
{
    const char *colon = strchr(name, ':'), *sign = strchr(name, '@');

    if (sign != NULL)
        return ds_fail(err, EINVAL, "%s:%u:%u: '%.100s' is written '%.100s user=%.*s'", at->file,
                       at->line, column, name, sign + 1,
                       (int)(sign - name < 100 ? sign - name : 100), name);
    if (colon != NULL && colon[1] != '\0' && colon[1 + strspn(colon + 1, "0123456789")] == '\0')
        return ds_fail(err, EINVAL, "%s:%u:%u: '%.100s' is written '%.*s slots=%.20s'", at->file,
                       at->line, column, name, (int)(colon - name < 100 ? colon - name : 100), name,
                       colon + 1);
    return 0;
}

/* One line, which may be cut into words here. */
static int read_line(struct ds_roster *roster, char *line, struct place *at, struct ds_error *err)
{
    static const char blank[] = " \t\r";
    struct ds_host_spec host = {0};
    const char *name = NULL;
    unsigned name_column = 0;
    int rc;

    line[strcspn(line, "#")] = '\0';
    for (char *word = line + strspn(line, blank); *word != '\0';) {
        char *end = word + strcspn(word, blank);
        char *next = end + strspn(end, blank);

        *end = '\0';
        at->column = (unsigned)(word - line) + 1;
        if (name == NULL) {
            name = word;
            name_column = at->column;
        } else {
            rc = read_key(&host, word, at, err);
            if (rc != 0)
                return rc;
        }
        word = next;
    }
    if (name == NULL)
        return 0;
    rc = refuse_form(name, at, name_column, err);
    if (rc != 0)
        return rc;
    rc = ds_roster_add(roster, name, &host, err);
    return ds_error_context(err, rc, "%s:%u:%u", at->file, at->line, name_column);
}

static int read_lines(struct ds_roster *roster, const char *name, char *text, struct ds_error *err)
{
    struct place at = {.file = name};
    int rc = 0;

    while (rc == 0 && *text != '\0') {
        size_t len = strcspn(text, "\n");
        char *next = text + len + (text[len] == '\n');

        text[len] = '\0';
        at.line++;
        rc = read_line(roster, text, &at, err);
        text = next;
    }
    return rc;
}

/* Look at the first line that says something. */
static bool looks_like_yaml(const char *text)
{
    for (;;) {
        size_t skip = strspn(text, " \t\r\n");
        const char *line = text + skip;
        size_t len = strcspn(line, "\n");
        size_t key = strcspn(line, " \t\r\n:#");

        if (*line == '#') {
            text = line + len;
            continue;
        }
        return *line != '\0' && (strchr("{[-&!%", *line) != NULL ||
                                 (line[key] == ':' && strchr("\r\n\t ", line[key + 1]) != NULL));
    }
}

int ds_hostfile_parse(struct ds_roster *roster, const char *name, const char *text, size_t len,
                      struct ds_error *err)
{
    char *copy;
    int rc;

    if (len > DS_MAX_YAML_BYTES)
        return ds_fail(err, EINVAL, "%s: larger than %d bytes", name, DS_MAX_YAML_BYTES);
    if (memchr(text, '\0', len) != NULL)
        return ds_fail(err, EINVAL, "%s:1:1: not a text file", name);
    copy = ds_arena_strndup(&roster->arena, text, len);
    if (copy == NULL)
        return ds_fail(err, ENOMEM, "no memory for '%s'", name);
    if (strncmp(copy, "\xef\xbb\xbf", 3) == 0) /* a byte order mark, of an editor elsewhere */
        memcpy(copy, "   ", 3);
    if (copy[strspn(copy, " \t\r\n")] != '\0' && looks_like_yaml(copy))
        rc = ds__hostfile_yaml(roster, name, text, len, err);
    else
        rc = read_lines(roster, name, copy, err);
    if (rc == 0 && roster->hosts == 0)
        return ds_fail(err, EINVAL, "%s:1:1: no host is named here", name);
    return rc;
}

int ds_hostfile_load(struct ds_roster *roster, const char *path, struct ds_error *err)
{
    struct ds_buf text;
    int rc;

    ds_buf_init(&text, DS_MAX_YAML_BYTES);
    rc = ds_fs_read(path, DS_MAX_YAML_BYTES, &text, err);
    if (rc == 0)
        rc = ds_hostfile_parse(roster, path, ds_buf_text(&text), text.len, err);
    ds_buf_release(&text);
    return rc;
}
