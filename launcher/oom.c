/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * oom.c - the contract is in oom.h.
 */
#include "launcher/oom.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PROC_BYTES = 64 * 1024 };

/* The whole of a small file of /proc or /sys, or "" when it cannot be read. */
static void slurp(const char *path, char *out, size_t cap)
{
    FILE *file = fopen(path, "re");
    size_t n = 0;

    if (file != NULL) {
        n = fread(out, 1, cap - 1, file);
        (void)fclose(file);
    }
    out[n] = '\0';
}

/* The number after "oom_kill " at the start of a line; false when there is none. */
static bool read_counter(const char *path, uint64_t *value)
{
    char text[1024];
    const char *at;

    slurp(path, text, sizeof(text));
    at = strncmp(text, "oom_kill ", 9) == 0 ? text : strstr(text, "\noom_kill ");
    if (at == NULL)
        return false;
    *value = strtoull(strchr(at, ' '), NULL, 10);
    return true;
}

/* One line of /proc/self/cgroup, "4:memory:/path" or "0::/path", to the counter's file. */
static bool try_line(struct ds_oom *oom, const char *line, size_t len)
{
    const char *path = memchr(line, ':', len);
    bool v2 = strncmp(line, "0::", 3) == 0;
    int n;

    path = path != NULL ? memchr(path + 1, ':', len - (size_t)(path + 1 - line)) : NULL;
    if (path == NULL || (!v2 && strstr(line, ":memory:") != memchr(line, ':', len)))
        return false;
    path++;
    n = snprintf(oom->path, sizeof(oom->path), "/sys/fs/cgroup%s%.*s/%s", v2 ? "" : "/memory",
                 (int)(len - (size_t)(path - line)), path,
                 v2 ? "memory.events" : "memory.oom_control");
    return n > 0 && (size_t)n < sizeof(oom->path) && read_counter(oom->path, &oom->seen);
}

void ds_oom_init(struct ds_oom *oom)
{
    char *text = calloc(1, PROC_BYTES);

    *oom = (struct ds_oom){0};
    if (text == NULL)
        return;
    slurp("/proc/self/cgroup", text, PROC_BYTES);
    for (const char *line = text; *line != '\0';) {
        size_t len = strcspn(line, "\n");

        if (try_line(oom, line, len))
            break;
        oom->path[0] = '\0';
        line += len + (line[len] == '\n');
    }
    free(text);
}

void ds_oom_watch(struct ds_oom *oom, const char *folder)
{
    struct ds_oom other;
    int n = snprintf(other.path, sizeof(other.path), "%s/memory.events", folder);

    if (n > 0 && (size_t)n < sizeof(other.path) && read_counter(other.path, &other.seen))
        *oom = other;
}

bool ds_oom_happened(struct ds_oom *oom)
{
    uint64_t now = 0;
    bool grown;

    if (oom->path[0] == '\0' || !read_counter(oom->path, &now))
        return false;
    grown = now > oom->seen;
    oom->seen = now;
    return grown;
}
