/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_error.c - raising, context, cutting; exit codes of errnos.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/exit.h"

Test(error, fail_fills_everything)
{
    struct ds_error err = {0};
    int line = __LINE__ + 1;
    int rc = ds_fail(&err, EINVAL, "key '%s' is %d", "optim.lr", 7);

    cr_assert_eq(rc, -EINVAL);
    cr_assert_eq(err.code, EINVAL);
    cr_assert_eq(err.line, line);
    cr_assert_not_null(strstr(err.file, "test_error.c"));
    cr_assert_str_eq(err.text, "key 'optim.lr' is 7");
    cr_assert_str_eq(ds_error_text(&err, rc), "key 'optim.lr' is 7");
}

Test(error, null_error_keeps_the_code)
{
    cr_assert_eq(ds_fail(NULL, EIO, "lost"), -EIO);
    cr_assert_eq(ds_error_context(NULL, -EIO, "file"), -EIO);
    cr_assert_str_eq(ds_error_text(NULL, -ENOENT), strerror(ENOENT));
    ds_error_clear(NULL);
}

Test(error, context_is_put_in_front)
{
    struct ds_error err = {0};
    int rc = ds_fail(&err, EBADMSG, "too short");

    rc = ds_error_context(&err, rc, "tensor '%s'", "wte");
    rc = ds_error_context(&err, rc, "file '%s'", "a.bin");
    cr_assert_eq(rc, -EBADMSG);
    cr_assert_str_eq(err.text, "file 'a.bin': tensor 'wte': too short");
}

Test(error, context_of_success_changes_nothing)
{
    struct ds_error err = {0};

    cr_assert_eq(ds_error_context(&err, 0, "file"), 0);
    cr_assert_str_empty(err.text);
}

Test(error, context_without_text_takes_the_errno)
{
    struct ds_error err = {0};

    cr_assert_eq(ds_error_context(&err, -ENOENT, "file 'x'"), -ENOENT);
    cr_assert_str_eq(err.text, "file 'x': No such file or directory");
}

/* Whatever the lengths, the text ends inside its array, and a cut shows. */
Test(error, long_texts_are_cut_visibly)
{
    static char big[3 * DS_MAX_ERROR_TEXT];
    static const size_t edges[] = {0,
                                   1,
                                   4,
                                   10,
                                   DS_MAX_ERROR_TEXT - 6,
                                   DS_MAX_ERROR_TEXT - 3,
                                   DS_MAX_ERROR_TEXT - 2,
                                   DS_MAX_ERROR_TEXT - 1,
                                   DS_MAX_ERROR_TEXT,
                                   2 * DS_MAX_ERROR_TEXT};
    enum { EDGES = sizeof(edges) / sizeof(edges[0]) };

    memset(big, 'x', sizeof(big) - 1);
    for (size_t i = 0; i < EDGES; i++) {
        for (size_t k = 0; k < EDGES; k++) {
            struct ds_error err = {0};
            int rc = ds_fail(&err, EINVAL, "%.*s", (int)edges[i], big);
            size_t len = strlen(err.text), whole;

            cr_assert_lt(len, sizeof(err.text));
            cr_assert_eq(strcmp(err.text + len - (len < 3 ? len : 3), "...") == 0,
                         edges[i] >= sizeof(err.text), "text of %zu", edges[i]);
            whole = edges[k] + 2 + (i == 0 ? strlen(strerror(EINVAL)) : len);
            rc = ds_error_context(&err, rc, "%.*s", (int)edges[k], big);
            len = strlen(err.text);
            cr_assert_eq(rc, -EINVAL);
            cr_assert_eq(len, whole < sizeof(err.text) ? whole : sizeof(err.text) - 1,
                         "text %zu context %zu: %zu", edges[i], edges[k], len);
            if (whole >= sizeof(err.text))
                cr_assert_str_eq(err.text + len - 3, "...", "text %zu context %zu", edges[i],
                                 edges[k]);
        }
    }
}

Test(error, clear_forgets)
{
    struct ds_error err = {0};

    ds_fail(&err, EIO, "lost");
    ds_error_clear(&err);
    cr_assert_eq(err.code, 0);
    cr_assert_str_empty(err.text);
}

Test(exit, errnos_map_to_the_table)
{
    static const struct {
        int code, exit;
    } cases[] = {
        {0, DS_EXIT_OK},
        {EINVAL, DS_EXIT_DATA},
        {EBADMSG, DS_EXIT_DATA},
        {ERANGE, DS_EXIT_DATA},
        {EOVERFLOW, DS_EXIT_DATA},
        {ENOTSUP, DS_EXIT_DATA},
        {ENOMEM, DS_EXIT_DATA},
        {EMSGSIZE, DS_EXIT_DATA},
        {ENOENT, DS_EXIT_USAGE},
        {ETIMEDOUT, DS_EXIT_TIMEOUT},
        {EHOSTUNREACH, DS_EXIT_UNAVAILABLE},
        {EKEYREJECTED, DS_EXIT_UNAVAILABLE},
        {EPROTO, DS_EXIT_UNAVAILABLE},
        {EIO, DS_EXIT_FAILURE},
        {ENOSPC, DS_EXIT_FAILURE},
        {EACCES, DS_EXIT_FAILURE},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        cr_assert_eq(ds_exit_from_errno(-cases[i].code), cases[i].exit, "%s",
                     strerror(cases[i].code));
}
