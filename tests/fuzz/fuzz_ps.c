/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_ps.c - any bytes as the record of a job, for dsrun ps.
 *
 * Beyond "no crash": at most a head and one line are printed, without a control character.
 */
#include <assert.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fsio.h"
#include "cli/cli.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char folder[DS_MAX_PATH];
static int record = -1; /* locked, as that of a job that lives */

static void remove_folder(void)
{
    (void)!ds_fs_remove_tree(folder, NULL);
}

static void make_folder(void)
{
    const char *parent = getenv("TMPDIR");
    char path[DS_MAX_PATH + 32];

    (void)snprintf(folder, sizeof(folder), "%s/dsrun-fuzz.XXXXXX",
                   parent != NULL ? parent : "/tmp");
    assert(mkdtemp(folder) != NULL && atexit(remove_folder) == 0);
    assert(setenv("XDG_RUNTIME_DIR", folder, 1) == 0);
    (void)snprintf(path, sizeof(path), "%s/dsrun/jobs", folder);
    (void)umask(077);
    assert(ds_fs_mkdirs(path, NULL) == 0);
    (void)snprintf(path, sizeof(path), "%s/dsrun/jobs/%ld", folder, (long)getpid());
    record = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    assert(record >= 0 && flock(record, LOCK_EX) == 0);
}

static void check(const char *text, size_t len, unsigned most)
{
    unsigned lines = 0;

    for (size_t i = 0; i < len; i++) {
        lines += text[i] == '\n';
        assert(text[i] == '\n' || text[i] == '\t' ||
               ((unsigned char)text[i] >= ' ' && text[i] != 127));
    }
    assert(lines <= most);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    FILE *real = stdout;

    if (record < 0)
        make_folder();
    assert(ftruncate(record, 0) == 0 && pwrite(record, data, size, 0) == (ssize_t)size);
    assert(pwrite(record, "\n", 1, (off_t)size) == 1);
    for (unsigned json = 0; json < 2; json++) {
        struct ds_cli cli = {.json = json};
        char *text = NULL;
        size_t len = 0;
        int rc;

        stdout = open_memstream(&text, &len);
        assert(stdout != NULL);
        rc = ds_cmd_ps(&cli);
        (void)fclose(stdout);
        stdout = real;
        assert(rc == 0);
        if (json == 0)
            check(text, len, 2);
        free(text);
    }
    return 0;
}
