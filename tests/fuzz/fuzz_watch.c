/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_watch.c - any bytes as the records and the log of a run, for dsrun attach and dsrun logs.
 *
 * Up to the first 0xff byte they are events.jsonl, the rest is metrics.jsonl, and all of them are
 * the log of rank 0.  Beyond "no crash": nothing that is shown has a control character, and a run
 * that nobody holds ends.
 */
#include <assert.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/fsio.h"
#include "cli/cli.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { PATH_BYTES = DS_MAX_PATH + 64 };

static char folder[DS_MAX_PATH];
static int screen = -1, real[2]; /* what is shown; stdout and stderr themselves */

static void remove_folder(void)
{
    (void)!ds_fs_remove_tree(folder, NULL);
}

static void make_folder(void)
{
    const char *parent = getenv("TMPDIR");
    char path[PATH_BYTES];

    (void)snprintf(folder, sizeof(folder), "%s/dsrun-fuzz.XXXXXX",
                   parent != NULL ? parent : "/tmp");
    assert(mkdtemp(folder) != NULL && atexit(remove_folder) == 0);
    assert(setenv("XDG_RUNTIME_DIR", folder, 1) == 0 && setenv("TERM", "dumb", 1) == 0);
    (void)snprintf(path, sizeof(path), "%s/logs", folder);
    assert(ds_fs_mkdirs(path, NULL) == 0);
    screen = memfd_create("screen", MFD_CLOEXEC);
    real[0] = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
    real[1] = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
    assert(screen >= 0 && real[0] >= 0 && real[1] >= 0);
}

static void put_file(const char *name, const uint8_t *data, size_t size)
{
    char path[PATH_BYTES];
    int fd;

    (void)snprintf(path, sizeof(path), "%s/%s", folder, name);
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert(fd >= 0 && write(fd, data, size) == (ssize_t)size && close(fd) == 0);
}

static void show(int (*command)(const struct ds_cli *), const struct ds_cli *cli)
{
    assert(ftruncate(screen, 0) == 0 && lseek(screen, 0, SEEK_SET) == 0);
    assert(dup2(screen, STDOUT_FILENO) >= 0 && dup2(screen, STDERR_FILENO) >= 0);
    (void)command(cli);
    (void)fflush(stderr);
    assert(dup2(real[0], STDOUT_FILENO) >= 0 && dup2(real[1], STDERR_FILENO) >= 0);
}

static void check(void)
{
    char bytes[4096];
    off_t at = 0;
    ssize_t n;

    while ((n = pread(screen, bytes, sizeof(bytes), at)) > 0) {
        for (ssize_t i = 0; i < n; i++)
            assert(bytes[i] == '\n' || bytes[i] == '\t' ||
                   ((unsigned char)bytes[i] >= ' ' && bytes[i] != 127));
        at += n;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *split = size > 0 ? memchr(data, 0xff, size) : NULL;
    size_t events = split != NULL ? (size_t)(split - data) : size;
    const char *word = folder;
    struct ds_cli cli = {
        .rank = -1, .lines = -1, .color = DS_COLOR_NEVER, .follow = true, .arg = &word, .args = 1};

    if (screen < 0)
        make_folder();
    put_file("events.jsonl", data, events);
    put_file("metrics.jsonl", data + events + (split != NULL), size - events - (split != NULL));
    put_file("logs/rank-00000.log", data, size);
    show(ds_cmd_logs, &cli);
    check();
    show(ds_cmd_attach, &cli);
    check();
    cli.json = true;
    show(ds_cmd_attach, &cli);
    return 0;
}
