/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_faults.c - base when the disk fills, the system refuses or memory runs out, at every call.
 */
#include "tests/faults.h"
#include "tests/tempdir.h"

#include <string.h>

#include "base/arena.h"
#include "base/json.h"

TestSuite(faults, .init = tempdir_make, .fini = tempdir_remove);

static bool holds(const char *path, const char *want)
{
    char text[64];
    FILE *file = fopen(path, "rb");
    size_t len;

    cr_assert_not_null(file);
    len = fread(text, 1, sizeof(text) - 1, file);
    fclose(file);
    return len == strlen(want) && memcmp(text, want, len) == 0;
}

/* Whatever fails, the name holds the old bytes or the new ones, and nothing else lies about. */
Test(faults, replace)
{
    static const int codes[] = {ENOSPC, EIO, EACCES, EDQUOT};
    const char *path = tempdir_write("latest", "old", 3);
    unsigned failures = 0;

    for (size_t c = 0; c < sizeof(codes) / sizeof(codes[0]); c++) {
        for (unsigned n = 1; faults_next(n, codes[c]); n++) {
            int lowest = dup(0), again, rc;
            struct ds_error err = {0};

            close(lowest);
            rc = ds_fs_replace(path, "newer", 5, &err);
            faults_off();
            again = dup(0);
            close(again);
            cr_assert_eq(again, lowest, "call %u leaks a descriptor", n);
            cr_assert_eq(tempdir_names(tempdir), 1, "call %u leaves a file", n);
            if (faults_hit == 0) {
                cr_assert_eq(rc, 0);
                break;
            }
            failures++;
            cr_assert_eq(rc, -codes[c], "call %u", n);
            cr_assert_not_null(strstr(err.text, strerror(codes[c])), "%s", err.text);
            cr_assert(holds(path, "old") || holds(path, "newer"));
        }
        cr_assert(holds(path, "newer"));
        tempdir_write("latest", "old", 3);
    }
    /* open, write, fsync, close, rename, open and fsync of the folder */
    cr_assert_eq(failures, 7 * sizeof(codes) / sizeof(codes[0]));
}

/* Until the rename, a failure leaves the old file. */
Test(faults, replace_keeps_the_old_file)
{
    const char *path = tempdir_write("latest", "old", 3);

    for (unsigned n = 1; n <= 5; n++) {
        cr_assert(faults_next(n, ENOSPC));
        cr_assert_eq(ds_fs_replace(path, "newer", 5, NULL), -ENOSPC);
        faults_off();
        cr_assert(holds(path, "old"), "call %u", n);
    }
}

/* Interrupted and one byte at a time, everything still arrives. */
Test(faults, interrupted_and_short_transfers)
{
    const char *path = tempdir_path("a");
    struct ds_buf text;
    char back[6] = {0};
    int fd;

    faults_kinds = FAULT_IO | FAULT_SHORT;
    for (unsigned n = 2; n <= 5; n++) {
        (void)faults_next(1, EINTR);
        faults_left = n; /* some write in the middle */
        cr_assert_eq(ds_fs_replace(path, "12345", 5, NULL), 0);
        faults_off();
        cr_assert_eq(faults_hit, 1);
        cr_assert(holds(path, "12345"));

        (void)faults_next(1, EINTR);
        faults_left = n;
        ds_buf_init(&text, 100);
        cr_assert_eq(ds_fs_read(path, 5, &text, NULL), 0);
        cr_assert_eq(faults_hit, 1);
        cr_assert_str_eq(ds_buf_text(&text), "12345");
        ds_buf_release(&text);

        fd = open(path, O_RDWR | O_CLOEXEC);
        (void)faults_next(1, EINTR);
        faults_left = n - 1;
        cr_assert_eq(ds_fs_pwrite_all(fd, "12345", 5, 0, NULL), 0);
        cr_assert_eq(faults_hit, 1);
        (void)faults_next(1, EINTR);
        faults_left = n - 1;
        cr_assert_eq(ds_fs_pread_all(fd, back, 5, 0, NULL), 0);
        cr_assert_eq(faults_hit, 1);
        faults_off();
        cr_assert_str_eq(back, "12345");
        close(fd);
    }
}

Test(faults, reading)
{
    const char *path = tempdir_write("a", "12345", 5);
    struct ds_map map;
    struct ds_buf text;

    faults_kinds = FAULT_IO | FAULT_MEMORY;
    for (unsigned n = 1; faults_next(n, EIO); n++) {
        struct ds_error err = {0};
        int rc;

        ds_buf_init(&text, 100);
        rc = ds_fs_read(path, 100, &text, &err);
        faults_off();
        cr_assert_eq(rc == 0, faults_hit == 0, "call %u", n);
        cr_assert(rc == 0 || strstr(err.text, path) != NULL, "%s", err.text);
        ds_buf_release(&text);
    }
    for (unsigned n = 1; faults_next(n, ENOMEM); n++) {
        int rc = ds_fs_map(path, &map, NULL);

        faults_off();
        cr_assert_eq(rc, faults_hit > 0 ? -ENOMEM : 0);
        ds_map_release(&map);
    }
}

Test(faults, folders)
{
    for (unsigned n = 1; faults_next(n, ENOSPC); n++) {
        int rc = ds_fs_mkdirs(tempdir_path("a/b/c"), NULL);

        faults_off();
        cr_assert_eq(rc, faults_hit > 0 ? -ENOSPC : 0, "call %u", n);
    }
    cr_assert_eq(access(tempdir_path("a/b/c"), F_OK), 0);
}

/* --- memory -------------------------------------------------------------------------------- */

Test(faults, buffer_without_memory)
{
    struct ds_buf buf;

    faults_kinds = FAULT_MEMORY;
    for (unsigned n = 1; faults_next(n, ENOMEM); n++) {
        size_t len = 0;
        int rc = 0;

        ds_buf_init(&buf, 1 << 20);
        for (int i = 0; rc == 0 && i < 3000; i++) {
            len = buf.len;
            rc = ds_buf_puts(&buf, "text");
        }
        faults_off();
        cr_assert_eq(rc, faults_hit > 0 ? -ENOMEM : 0);
        cr_assert_eq(buf.failed, faults_hit > 0);
        if (buf.failed) {
            cr_assert_eq(buf.len, len, "what was there stays");
            cr_assert_eq(ds_buf_puts(&buf, "x"), -ENOBUFS);
            ds_buf_reset(&buf);
            cr_assert_eq(ds_buf_puts(&buf, "again"), 0);
        }
        ds_buf_release(&buf);
    }
}

Test(faults, arena_without_memory)
{
    struct ds_arena arena;

    faults_kinds = FAULT_MEMORY;
    for (unsigned n = 1; faults_next(n, ENOMEM); n++) {
        unsigned failed = 0;

        ds_arena_init(&arena);
        for (int i = 0; i < 100; i++)
            failed += ds_arena_printf(&arena, "%*d", 100, i) == NULL;
        cr_assert_eq(failed, faults_hit, "one call failed and the next ones did not");
        ds_arena_release(&arena);
    }
    faults_off();
}
