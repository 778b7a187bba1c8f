/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * gpus.c - the contract is in gpus.h.
 */
#include "cli/gpus.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fsio.h"
#include "cli/cli.h"
#include "cli/env.h"
#include "cli/place.h"
#include "launcher/remote/transport.h"
#include "runtime/plugin.h"

enum { ANSWER_BYTES = 64, LIST_BYTES = 16 * 1024 * 1024 };

/* --- which devices ---------------------------------------------------------------------------- */

/* Entry `index` of "2,GPU-1f,3"; `count` of them are there, or as many as there are. */
static const char *entry(const char *list, uint32_t index, size_t *len, uint32_t *count)
{
    *count = 0;
    for (;; list += *len + 1) {
        *len = strcspn(list, ",");
        if ((*count)++ == index)
            return list;
        if (list[*len] == '\0')
            return NULL;
    }
}

/* The device of one slot, behind those of the slots before. */
static int put_device(const struct ds_host_spec *host, uint32_t slot, const char *visible,
                      struct ds_buf *text, struct ds_error *err)
{
    uint32_t count;
    size_t len;

    if (text->len > 0)
        (void)ds_buf_puts(text, ",");
    if (host->device != NULL && slot >= host->devices)
        return ds_fail(err, EDOM, "host '%s' has %u devices and no one for slot %u", host->name,
                       host->devices, slot);
    if (host->device != NULL || visible == NULL) {
        (void)ds_buf_printf(text, "%u", host->device != NULL ? host->device[slot] : slot);
        return 0;
    }
    visible = entry(visible, slot, &len, &count);
    if (visible == NULL)
        return ds_fail(err, EDOM, "'CUDA_VISIBLE_DEVICES' names %u devices and no one for slot %u",
                       count, slot);
    (void)ds_buf_put(text, visible, len);
    return 0;
}

/* "0,2": the devices of the slots of a host; NULL where nobody named any. */
static int list_devices(struct ds_cli_place *place, uint32_t index, struct ds_error *err)
{
    const struct ds_place *at = &place->placement.place[index];
    const char *visible =
        place->transport == &ds_transport_local ? getenv("CUDA_VISIBLE_DEVICES") : NULL;
    struct ds_buf text;
    int rc = 0;

    if (at->spec->device == NULL && at->spec->slot == NULL)
        return 0;
    if (at->spec->device == NULL && visible != NULL && visible[0] == '\0')
        return 0; /* this machine's are hidden, and stay so */
    ds_buf_init(&text, LIST_BYTES);
    for (uint32_t local = 0; rc == 0 && local < at->ranks; local++)
        rc = put_device(at->spec, ds_placement_slot(at, local), visible, &text, err);
    if (rc == 0) {
        place->devices[index] = ds_arena_strdup(&place->roster.arena, ds_buf_text(&text));
        if (place->devices[index] == NULL)
            rc = ds_fail(err, ENOMEM, "no memory for the devices of '%s'", at->host);
    }
    ds_buf_release(&text);
    return rc;
}

int ds_cli_place_devices(struct ds_cli_place *place, struct ds_error *err)
{
    uint32_t places = place->placement.places;
    int rc = 0;

    place->devices = ds_arena_alloc(&place->roster.arena, places, sizeof(*place->devices));
    if (place->devices == NULL)
        return ds_fail(err, ENOMEM, "no memory for %u hosts", places);
    for (uint32_t i = 0; rc == 0 && i < places; i++)
        rc = list_devices(place, i, err);
    return rc;
}

/* --- what they have --------------------------------------------------------------------------- */

/* All that comes out of `fd`, up to cap - 1 bytes, as text. */
static void read_answer(int fd, char *out, size_t cap)
{
    size_t len = 0;
    ssize_t got = 1;

    while (got > 0 && len + 1 < cap) {
        got = read(fd, out + len, cap - 1 - len);
        if (got < 0 && errno == EINTR)
            got = 1;
        else if (got > 0)
            len += (size_t)got;
    }
    out[len] = '\0';
}

/* This process's variables behind what ranks get, of which the last wins where getenv() takes the
 * first. */
static const char **variables(const struct ds_cli_place *place, struct ds_arena *arena)
{
    const char *devices = place->devices != NULL ? place->devices[0] : NULL;
    const char **out;
    size_t count = 0, n = 0;

    while (environ[count] != NULL)
        count++;
    out = ds_arena_alloc(arena, place->env.count + 1 + count + 1, sizeof(*out));
    for (size_t i = place->env.count; out != NULL && i > 0; i--)
        out[n++] = place->env.item[i - 1];
    if (out != NULL && devices != NULL) {
        out[n++] = ds_arena_printf(arena, "CUDA_VISIBLE_DEVICES=%s", devices);
        if (out[n - 1] == NULL)
            return NULL;
    }
    for (size_t i = 0; out != NULL && i < count; i++)
        out[n++] = environ[i];
    return out;
}

/* Start `path device`, its output into fd, what it says of its failure to nobody: the rank that
 * opens the device says it. */
static int start(pid_t *pid, const char *path, const char **env, int fd, struct ds_error *err)
{
    const char *argv[] = {"dsrun-worker", "device", NULL};
    posix_spawn_file_actions_t files;
    int rc;

    (void)posix_spawn_file_actions_init(&files);
    rc = posix_spawn_file_actions_adddup2(&files, fd, STDOUT_FILENO);
    if (rc == 0)
        rc = posix_spawn_file_actions_addopen(&files, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
    if (rc == 0)
        rc =
            posix_spawn(pid, path, &files, NULL, (char **)(uintptr_t)argv, (char **)(uintptr_t)env);
    (void)posix_spawn_file_actions_destroy(&files);
    return rc == 0 ? 0 : ds_fail(err, rc, "cannot start '%s': %s", path, strerror(rc));
}

/* What the worker says of the GPUs; "" where it cannot use one. */
static int ask(const char *path, const char **env, char answer[ANSWER_BYTES], struct ds_error *err)
{
    int fd[2], status = 0, rc;
    pid_t pid = 0;

    if (pipe2(fd, O_CLOEXEC) != 0)
        return ds_fail(err, errno, "cannot make a pipe: %s", strerror(errno));
    rc = start(&pid, path, env, fd[1], err);
    (void)close(fd[1]);
    if (rc == 0)
        read_answer(fd[0], answer, ANSWER_BYTES);
    (void)close(fd[0]);
    while (rc == 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (status != 0)
        answer[0] = '\0';
    return rc;
}

int ds_cli_gpus(const struct ds_cli_place *place, struct ds_cli_gpus *gpus, struct ds_error *err)
{
    char path[DS_MAX_PATH], answer[ANSWER_BYTES] = "";
    unsigned long long bytes = 0;
    struct ds_arena arena;
    const char **env;
    int rc = ds_cli_libexec(path, DS_PLUGIN_FILE, err);

    *gpus = (struct ds_cli_gpus){.known = true};
    if (rc == 0 && access(path, R_OK) != 0)
        return 0; /* the worker would only say so */
    if (rc == 0)
        rc = ds_cli_libexec(path, "dsrun-worker", err);
    if (rc != 0)
        return rc;
    ds_arena_init(&arena);
    env = variables(place, &arena);
    rc = env == NULL ? ds_fail(err, ENOMEM, "no memory for the environment")
                     : ask(path, env, answer, err);
    if (rc == 0 && sscanf(answer, "%u %llu", &gpus->count, &bytes) != 2)
        gpus->count = 0;
    gpus->left_bytes = bytes;
    ds_arena_release(&arena);
    return rc;
}
