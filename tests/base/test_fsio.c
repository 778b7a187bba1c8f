/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_fsio.c - files read whole, replaced whole, never through a link.
 */
#include "tests/tempdir.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

TestSuite(fsio, .init = tempdir_make, .fini = tempdir_remove);

static void expect_content(const char *path, const char *want)
{
    struct ds_buf text;

    ds_buf_init(&text, 1 << 20);
    cr_assert_eq(ds_fs_read(path, 1 << 20, &text, NULL), 0, "%s", path);
    cr_assert_str_eq(ds_buf_text(&text), want);
    ds_buf_release(&text);
}

/* --- reading ------------------------------------------------------------------------------- */

Test(fsio, read_bounds)
{
    const char *path = tempdir_write("a", "12345", 5);
    struct ds_error err = {0};
    struct ds_buf text;

    ds_buf_init(&text, 100);
    cr_assert_eq(ds_buf_puts(&text, "head "), 0);
    cr_assert_eq(ds_fs_read(path, 5, &text, NULL), 0);
    cr_assert_str_eq(ds_buf_text(&text), "head 12345", "appended");
    cr_assert_eq(ds_fs_read(path, 4, &text, &err), -EFBIG);
    cr_assert_not_null(strstr(err.text, "larger than the 4 bytes"), "%s", err.text);
    cr_assert_eq(ds_fs_read(path, 0, &text, NULL), -EFBIG);
    ds_buf_release(&text);

    ds_buf_init(&text, 4);
    cr_assert_eq(ds_fs_read(path, 5, &text, NULL), -ENOBUFS);
    ds_buf_release(&text);
}

Test(fsio, read_large_and_empty)
{
    enum { BYTES = 300001 };
    static char bytes[BYTES];
    struct ds_buf text;

    memset(bytes, 'b', sizeof(bytes));
    ds_buf_init(&text, BYTES);
    cr_assert_eq(ds_fs_read(tempdir_write("big", bytes, BYTES), BYTES, &text, NULL), 0);
    cr_assert_eq(text.len, BYTES);
    cr_assert_eq(memcmp(text.data, bytes, BYTES), 0);
    ds_buf_reset(&text);
    cr_assert_eq(ds_fs_read(tempdir_write("empty", "", 0), 0, &text, NULL), 0);
    cr_assert_eq(text.len, 0);
    ds_buf_release(&text);
}

/* A file that says it has 0 bytes and has some. */
Test(fsio, read_of_proc)
{
    struct ds_buf text;

    ds_buf_init(&text, 1 << 20);
    cr_assert_eq(ds_fs_read("/proc/self/status", 1 << 20, &text, NULL), 0);
    cr_assert_gt(text.len, 10);
    ds_buf_reset(&text);
    cr_assert_eq(ds_fs_read("/proc/self/status", 10, &text, NULL), -EFBIG);
    ds_buf_release(&text);
}

Test(fsio, only_regular_files_are_read, .timeout = 20)
{
    struct ds_error err = {0};
    struct ds_map map;
    struct ds_buf text;
    const char *fifo = tempdir_path("fifo"), *none = tempdir_path("none");

    cr_assert_eq(mkfifo(fifo, 0600), 0);
    ds_buf_init(&text, 100);
    cr_assert_eq(ds_fs_read(fifo, 10, &text, &err), -EINVAL, "and does not wait for a writer");
    cr_assert_not_null(strstr(err.text, "not a regular file"));
    cr_assert_eq(ds_fs_read(tempdir, 10, &text, &err), -EINVAL);
    cr_assert_eq(ds_fs_read("/dev/null", 10, &text, &err), -EINVAL);
    cr_assert_eq(ds_fs_read(none, 10, &text, &err), -ENOENT);
    cr_assert_not_null(strstr(err.text, none), "the text names the path");
    cr_assert_eq(ds_fs_map(fifo, &map, NULL), -EINVAL);
    cr_assert_eq(ds_fs_map(tempdir, &map, NULL), -EINVAL);
    cr_assert_eq(ds_fs_map(none, &map, NULL), -ENOENT);
    cr_assert_eq(map.fd, -1);
    ds_map_release(&map);
    ds_buf_release(&text);
}

Test(fsio, pread_and_pwrite)
{
    int fd = open(tempdir_path("a"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    struct ds_error err = {0};
    char back[8] = {0};

    cr_assert_geq(fd, 0);
    cr_assert_eq(ds_fs_pwrite_all(fd, "hello", 5, 3, NULL), 0);
    cr_assert_eq(ds_fs_pread_all(fd, back, 5, 3, NULL), 0);
    cr_assert_str_eq(back, "hello");
    cr_assert_eq(ds_fs_pread_all(fd, back, 0, 100, NULL), 0);
    cr_assert_eq(ds_fs_pread_all(fd, back, 6, 3, &err), -EBADMSG);
    cr_assert_str_eq(err.text, "file ends at byte 8, 1 more were expected");
    cr_assert_eq(ds_fs_pread_all(fd, back, 1, UINT64_MAX, NULL), -EBADMSG);
    cr_assert_eq(ds_fs_pread_all(fd, back, 8, INT64_MAX - 7, NULL), -EBADMSG);
    cr_assert_eq(ds_fs_pwrite_all(fd, back, 1, UINT64_MAX, NULL), -EFBIG);
    close(fd);
    cr_assert_eq(ds_fs_pread_all(-1, back, 1, 0, NULL), -EBADF);
    cr_assert_eq(ds_fs_pwrite_all(-1, back, 1, 0, NULL), -EBADF);
    cr_assert_eq(ds_fs_write_all(-1, back, 1, NULL), -EBADF);
}

Test(fsio, map)
{
    struct ds_map map;

    cr_assert_eq(ds_fs_map(tempdir_write("a", "12345", 5), &map, NULL), 0);
    cr_assert_eq(map.len, 5);
    cr_assert_geq(map.fd, 0);
    cr_assert_arr_eq(map.data, "12345", 5);
    ds_map_release(&map);
    cr_assert_eq(map.fd, -1);
    ds_map_release(&map);

    cr_assert_eq(ds_fs_map(tempdir_write("e", "", 0), &map, NULL), 0);
    cr_assert_null(map.data);
    cr_assert_eq(map.len, 0);
    ds_map_release(&map);
}

/* --- writing ------------------------------------------------------------------------------- */

Test(fsio, replace_creates_and_replaces)
{
    const char *path = tempdir_path("latest");
    struct stat st;

    umask(022);
    cr_assert_eq(ds_fs_replace(path, "one", 3, NULL), 0);
    expect_content(path, "one");
    cr_assert_eq(stat(path, &st), 0);
    cr_assert_eq(st.st_mode & 07777, 0644);
    cr_assert_eq(ds_fs_replace(path, "", 0, NULL), 0);
    expect_content(path, "");
    cr_assert_eq(tempdir_names(tempdir), 1, "no temporary file is left");
}

/* A reader that has the old file open keeps the old bytes, all of them. */
Test(fsio, replace_is_atomic)
{
    const char *path = tempdir_write("a", "old", 3);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    char back[4] = {0};

    cr_assert_geq(fd, 0);
    cr_assert_eq(ds_fs_replace(path, "newer", 5, NULL), 0);
    cr_assert_eq(ds_fs_pread_all(fd, back, 3, 0, NULL), 0);
    cr_assert_str_eq(back, "old");
    close(fd);
    expect_content(path, "newer");
}

Test(fsio, replace_does_not_follow_links)
{
    const char *victim = tempdir_write("victim", "precious", 8), *link = tempdir_path("link");
    struct stat st;
    char temp[DS_MAX_PATH];

    /* The name itself is a link: the link is replaced, its target untouched. */
    cr_assert_eq(symlink("victim", link), 0);
    cr_assert_eq(ds_fs_replace(link, "new", 3, NULL), 0);
    cr_assert_eq(lstat(link, &st), 0);
    cr_assert(S_ISREG(st.st_mode));
    expect_content(victim, "precious");

    /* Somebody guessed the temporary name and put a link there. */
    (void)snprintf(temp, sizeof(temp), "%s.tmp-%ld-0", link, (long)getpid());
    cr_assert_eq(symlink("victim", temp), 0);
    cr_assert_eq(ds_fs_replace(link, "newer", 5, NULL), 0);
    expect_content(link, "newer");
    expect_content(victim, "precious");
    cr_assert_eq(tempdir_names(tempdir), 3);
}

Test(fsio, replace_fails_without_harm)
{
    struct ds_error err = {0};
    char path[DS_MAX_PATH];
    static char name[DS_MAX_PATH];

    cr_assert_eq(ds_fs_replace(tempdir_path("no/where"), "x", 1, &err), -ENOENT);
    cr_assert_not_null(strstr(err.text, "no/where"));
    cr_assert_eq(mkdir(tempdir_path("folder"), 0755), 0);
    cr_assert_eq(ds_fs_replace(tempdir_path("folder"), "x", 1, &err), -EISDIR);
    cr_assert_eq(tempdir_names(tempdir), 1, "no temporary file is left");
    memset(name, 'n', sizeof(name) - 1);
    (void)snprintf(path, sizeof(path), "%s/%.200s", tempdir, name);
    cr_assert_eq(ds_fs_replace(path, "x", 1, NULL), 0, "a long name, but not too long");
    cr_assert_eq(ds_fs_replace(name, "x", 1, NULL), -ENAMETOOLONG);
}

/* As /dev/null and /dev/stdout, which only root could replace. */
Test(fsio, replace_leaves_what_is_no_file)
{
    const char *pipe = tempdir_path("pipe"), *link = tempdir_path("link");
    const char *path[] = {pipe, link};
    char temp[DS_MAX_PATH];

    cr_assert_eq(mkfifo(pipe, 0600), 0);
    cr_assert_eq(symlink("pipe", link), 0);
    for (size_t i = 0; i < 2; i++) {
        struct ds_error err = {0};
        struct stat st;

        cr_assert_eq(ds_fs_replace(path[i], "x", 1, &err), -EINVAL);
        cr_assert_not_null(strstr(err.text, "it is no regular file"));
        cr_assert_eq(ds_fs_create_beside(path[i], temp, NULL), -EINVAL);
        cr_assert(stat(path[i], &st) == 0 && S_ISFIFO(st.st_mode));
    }
    cr_assert_eq(tempdir_names(tempdir), 2, "no temporary file is left");
}

Test(fsio, replace_in_this_folder)
{
    cr_assert_eq(chdir(tempdir), 0);
    cr_assert_eq(ds_fs_replace("plain", "x", 1, NULL), 0);
    expect_content(tempdir_path("plain"), "x");
}

Test(fsio, full_disk)
{
    struct ds_error err = {0};
    int fd = open("/dev/full", O_WRONLY | O_CLOEXEC);

    cr_assert_geq(fd, 0);
    cr_assert_eq(ds_fs_write_all(fd, "x", 1, &err), -ENOSPC);
    cr_assert_not_null(strstr(err.text, "No space left"), "%s", err.text);
    cr_assert_eq(ds_fs_pwrite_all(fd, "x", 1, 0, &err), -ENOSPC);
    close(fd);
}

/* --- folders ------------------------------------------------------------------------------- */

Test(fsio, mkdirs)
{
    struct ds_error err = {0};
    struct stat st;

    cr_assert_eq(ds_fs_mkdirs(tempdir_path("a/b//c/"), NULL), 0);
    cr_assert_eq(stat(tempdir_path("a/b/c"), &st), 0);
    cr_assert(S_ISDIR(st.st_mode));
    cr_assert_eq(ds_fs_mkdirs(tempdir_path("a/b/c"), NULL), 0, "again");
    cr_assert_eq(ds_fs_mkdirs("/", NULL), 0);
    cr_assert_eq(symlink("a", tempdir_path("to-a")), 0);
    cr_assert_eq(ds_fs_mkdirs(tempdir_path("to-a/d"), NULL), 0, "a link to a folder is a folder");
    tempdir_write("file", "", 0);
    cr_assert_eq(ds_fs_mkdirs(tempdir_path("file"), &err), -ENOTDIR);
    cr_assert_eq(ds_fs_mkdirs(tempdir_path("file/x"), &err), -ENOTDIR);
    cr_assert_not_null(strstr(err.text, "a file is in its place"), "%s", err.text);
    cr_assert_eq(ds_fs_mkdirs("", NULL), -EINVAL);
}

Test(fsio, sync_dir)
{
    cr_assert_eq(ds_fs_sync_dir(tempdir, NULL), 0);
    cr_assert_eq(ds_fs_sync_dir(tempdir_path("none"), NULL), -ENOENT);
    cr_assert_eq(ds_fs_sync_dir(tempdir_write("file", "", 0), NULL), -ENOTDIR);
}

Test(fsio, remove_tree_removes_everything_and_follows_nothing)
{
    cr_assert_eq(ds_fs_mkdirs(tempdir_path("keep"), NULL), 0);
    tempdir_write("keep/precious", "x", 1);
    cr_assert_eq(ds_fs_mkdirs(tempdir_path("tree/a/b"), NULL), 0);
    cr_assert_eq(ds_fs_mkdirs(tempdir_path("tree/empty"), NULL), 0);
    tempdir_write("tree/a/b/.hidden", "x", 1);
    tempdir_write("tree/file", "x", 1);
    cr_assert_eq(symlink("../keep", tempdir_path("tree/link")), 0);
    cr_assert_eq(symlink("../../keep/precious", tempdir_path("tree/a/link")), 0);
    cr_assert_eq(symlink("nowhere", tempdir_path("tree/dangling")), 0);
    cr_assert_eq(mkfifo(tempdir_path("tree/fifo"), 0600), 0);

    cr_assert_eq(ds_fs_remove_tree(tempdir_path("tree"), NULL), 0);
    cr_assert_eq(access(tempdir_path("tree"), F_OK), -1);
    expect_content(tempdir_path("keep/precious"), "x");

    cr_assert_eq(ds_fs_remove_tree(tempdir_path("tree"), NULL), 0, "a missing one is success");
    cr_assert_eq(symlink("keep", tempdir_path("to-keep")), 0);
    cr_assert_eq(ds_fs_remove_tree(tempdir_path("to-keep"), NULL), 0, "the link, not the folder");
    expect_content(tempdir_path("keep/precious"), "x");
}

/* Folders in folders, `depth` of them in all. */
static void make_deep(int depth)
{
    char path[DS_MAX_PATH];
    size_t len = (size_t)snprintf(path, sizeof(path), "%s", tempdir_path("deep"));

    for (int i = 1; i < depth; i++, len += 2)
        memcpy(path + len, "/d", 3);
    cr_assert_eq(ds_fs_mkdirs(path, NULL), 0);
}

Test(fsio, remove_tree_has_a_depth)
{
    enum { MOST = 64 };
    struct ds_error err = {0};

    make_deep(MOST);
    cr_assert_eq(ds_fs_remove_tree(tempdir_path("deep"), &err), 0, "%s", err.text);
    make_deep(MOST + 1);
    cr_assert_eq(ds_fs_remove_tree(tempdir_path("deep"), &err), -ELOOP);
    cr_assert_eq(ds_fs_remove_tree(tempdir_path("deep/d"), NULL), 0);
}

/* --- names --------------------------------------------------------------------------------- */

Test(fsio, path_join)
{
    static const struct {
        const char *a, *b, *want;
    } cases[] = {
        {"runs", "x", "runs/x"}, {"runs/", "x", "runs/x"}, {"/", "x", "/x"},
        {"", "x", "x"},          {"runs", "/x", "/x"},     {"a/b", "../c", "a/b/../c"},
    };
    char out[DS_MAX_PATH];
    static char longest[DS_MAX_PATH];

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        cr_assert_eq(ds_path_join(out, cases[i].a, cases[i].b, NULL), 0);
        cr_assert_str_eq(out, cases[i].want);
    }
    memset(longest, 'p', sizeof(longest) - 1);
    cr_assert_eq(ds_path_join(out, "", longest, NULL), 0);
    cr_assert_eq(ds_path_join(out, "a", longest, NULL), -ENAMETOOLONG);
}

Test(fsio, self_dir)
{
    char dir[DS_MAX_PATH];

    cr_assert_eq(ds_path_self_dir(dir, NULL), 0);
    cr_assert_eq(dir[0], '/');
    cr_assert_eq(access(dir, X_OK), 0);
    cr_assert_neq(dir[strlen(dir) - 1], '/');
}
