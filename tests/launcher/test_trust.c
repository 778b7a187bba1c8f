/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_trust.c - keys written into known_hosts files: modes, hashed names, many writers, other keys.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "launcher/remote/known_hosts.h"
#include "launcher/remote/trust.h"
#include "tests/tempdir.h"

TestSuite(trust, .init = tempdir_make, .fini = tempdir_remove, .timeout = 60);

enum { BLOB_BYTES = 51, WRITERS = 8, EACH = 20 };

/* An ssh-ed25519 key of `fill`. */
static void make_blob(unsigned char *blob, int fill)
{
    memset(blob, fill, BLOB_BYTES);
    memcpy(blob, "\0\0\0\013ssh-ed25519\0\0\0\040", 19);
}

static int record(const char *file, const char *name, const unsigned char *blob)
{
    struct ds_trust_key key = {.shown = {.host = name,
                                         .address = "127.0.0.1",
                                         .name = name,
                                         .file = file,
                                         .blob = blob,
                                         .len = BLOB_BYTES}};
    struct ds_trust trust = {.keys = &key};
    struct ds_error err = {0};

    return ds_trust_record(&trust, &err);
}

static void read_all(const char *file, struct ds_buf *text)
{
    ds_buf_init(text, DS_MAX_SSH_FILE);
    cr_assert_eq(ds_fs_read(file, DS_MAX_SSH_FILE, text, NULL), 0);
}

static enum ds_known_answer ask(const char *file, const char *name, const unsigned char *blob)
{
    const struct ds_known_entry *entry;
    struct ds_known known = {0};
    enum ds_known_answer answer;
    struct ds_buf text;

    read_all(file, &text);
    ds_known_add(&known, file, ds_buf_text(&text), text.len, name);
    answer = ds_known_check(&known, blob, BLOB_BYTES, &entry);
    ds_buf_release(&text);
    return answer;
}

static unsigned count_lines(const char *file)
{
    struct ds_buf text;
    unsigned n = 0;

    read_all(file, &text);
    for (size_t i = 0; i < text.len; i++)
        n += text.data[i] == '\n';
    ds_buf_release(&text);
    return n;
}

Test(trust, a_new_file_is_the_users_alone_and_a_key_is_written_once)
{
    char file[DS_MAX_PATH];
    unsigned char blob[BLOB_BYTES];
    struct stat info;

    (void)snprintf(file, sizeof(file), "%s", tempdir_path("ssh/known_hosts"));
    make_blob(blob, 1);
    cr_assert_eq(record(file, "[one]:2222", blob), 0);
    cr_assert_eq(record(file, "[one]:2222", blob), 0);
    cr_expect_eq(count_lines(file), 1);
    cr_expect_eq(ask(file, "[one]:2222", blob), DS_KNOWN_TRUSTED);
    cr_expect_eq(ask(file, "one", blob), DS_KNOWN_UNKNOWN);
    cr_assert_eq(stat(file, &info), 0);
    cr_expect_eq(info.st_mode & 07777, 0600);
    cr_assert_eq(stat(tempdir_path("ssh"), &info), 0);
    cr_expect_eq(info.st_mode & 07777, 0700);
}

Test(trust, a_last_line_without_an_end_and_hashed_names)
{
    static const char text[] =
        "|1|2Z9R+/4Vko1yr/F3X48BCOFlN1Y=|tCu9NvdiiwnOTzNtErxSJgtntGs= "
        "ssh-ed25519 "
        "AAAAC3NzaC1lZDI1NTE5AAAAIMrG6u2kQ6YpD4MvzhH5I8u8jXgevtgiDR0peG2sUlFr";
    char file[DS_MAX_PATH];
    unsigned char blob[BLOB_BYTES];
    struct ds_buf after;

    (void)snprintf(file, sizeof(file), "%s", tempdir_path("known_hosts"));
    cr_assert_eq(ds_fs_replace(file, text, strlen(text), NULL), 0);
    make_blob(blob, 1);
    cr_assert_eq(record(file, "node7", blob), 0);
    cr_expect_eq(count_lines(file), 2);
    cr_expect_eq(ask(file, "node7", blob), DS_KNOWN_TRUSTED);
    read_all(file, &after);
    cr_expect_eq(strncmp(ds_buf_text(&after), text, strlen(text)), 0, "what was there stays");
    cr_expect_null(strstr(ds_buf_text(&after), "node7"), "as hashed as the others");
    ds_buf_release(&after);
}

Test(trust, another_key_or_a_revoked_one_is_never_written)
{
    char file[DS_MAX_PATH];
    unsigned char one[BLOB_BYTES], two[BLOB_BYTES];
    struct ds_buf line;

    (void)snprintf(file, sizeof(file), "%s", tempdir_path("known_hosts"));
    make_blob(one, 1);
    make_blob(two, 2);
    cr_assert_eq(record(file, "node1", one), 0);
    cr_expect_eq(record(file, "node1", two), -EKEYREJECTED);
    cr_expect_eq(count_lines(file), 1);
    ds_buf_init(&line, 4096);
    (void)ds_buf_puts(&line, "@revoked ");
    cr_assert_eq(ds_known_line(&line, "*", two, BLOB_BYTES, NULL), 0);
    cr_assert_eq(ds_fs_replace(file, ds_buf_text(&line), line.len, NULL), 0);
    ds_buf_release(&line);
    cr_expect_eq(record(file, "node2", two), -EKEYREJECTED);
    cr_expect_eq(count_lines(file), 1);
    cr_expect_eq(record(NULL, "node2", one), -EINVAL, "nowhere to write to");
    cr_expect_eq(record(tempdir, "node2", one) < 0, 1, "a folder is no file");
}

Test(trust, writers_at_the_same_time_lose_nothing)
{
    char file[DS_MAX_PATH], name[32];
    unsigned char blob[BLOB_BYTES];

    (void)snprintf(file, sizeof(file), "%s", tempdir_path("known_hosts"));
    make_blob(blob, 1);
    for (int w = 0; w < WRITERS; w++)
        if (fork() == 0) {
            int failed = 0;

            for (int i = 0; i < EACH; i++) {
                (void)snprintf(name, sizeof(name), "node%d", (w / 2) * EACH + i); /* two each */
                failed += record(file, name, blob) != 0;
            }
            _exit(failed);
        }
    for (int w = 0; w < WRITERS; w++) {
        int status = -1;

        cr_assert_gt(wait(&status), 0);
        cr_expect_eq(status, 0);
    }
    cr_expect_eq(count_lines(file), WRITERS / 2 * EACH);
    for (int i = 0; i < WRITERS / 2 * EACH; i++) {
        (void)snprintf(name, sizeof(name), "node%d", i);
        cr_expect_eq(ask(file, name, blob), DS_KNOWN_TRUSTED, "%s", name);
    }
}
