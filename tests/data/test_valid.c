/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_valid.c - what a job is evaluated on: each name is data of its own, in order.
 */
#include "tests/tempdir.h"

#include <errno.h>
#include <string.h>

#include "runtime/data/valid.h"

TestSuite(valid, .init = tempdir_make, .fini = tempdir_remove);

enum { SEQUENCE = 4 };

static struct ds_job job_of(struct ds_data_set *set, size_t sets)
{
    struct ds_job job = {.seed = 1};

    job.data.valid = (struct ds_rows){sets, set};
    job.train.sequence = SEQUENCE;
    job.model.shape.vocab = 256;
    return job;
}

static char letter_at(const struct ds_data *data, uint64_t position)
{
    int32_t ids[SEQUENCE + 1];

    cr_assert_eq(ds_data_read(data, position, ids, NULL), 0);
    return (char)ids[0];
}

/* Of one name alone there is what there would be without the others. */
Test(valid, names_are_apart)
{
    const char *a = tempdir_write("a.txt", "aaaabbbbccccd", 13);
    const char *b = tempdir_write("b.txt", "eeeefffff", 9), *c = tempdir_write("c.bin", "gg", 2);
    struct ds_data_set set[] = {{{1, &a}, 1, "one"}, {{1, &b}, 2, "one"}, {{1, &b}, 1, "two"}};
    struct ds_job job = job_of(set, 3), first = job_of(set, 2);
    struct ds_valid valid, alone;
    struct ds_error err = {0};
    char what[DS_VALID_WHAT];

    first.data.valid.count = 2;
    cr_assert_eq(ds_valid_open(&valid, &job, &err), 0, "%s", err.text);
    cr_assert_eq(ds_valid_open(&alone, &first, &err), 0, "%s", err.text);
    cr_assert(valid.count == 2 && alone.count == 1);
    cr_assert_str_eq(valid.set[0].name, "one");
    cr_assert_str_eq(valid.set[1].name, "two");
    cr_assert(ds_data_sets(valid.set[0].data) == 2 && ds_data_sets(valid.set[1].data) == 1);
    for (uint64_t p = 0; p < 12; p++) {
        cr_assert_eq(letter_at(valid.set[0].data, p), letter_at(alone.set[0].data, p));
        cr_assert_eq(letter_at(valid.set[1].data, p), p % 2 == 0 ? 'e' : 'f');
    }
    ds_valid_close(&valid);
    ds_valid_close(&alone);
    set[2].path = (struct ds_strings){1, &c};
    cr_assert_eq(ds_valid_open(&valid, &job, &err), -EINVAL);
    cr_assert_not_null(strstr(err.text, "data.valid.two: no file is long enough"), "%s", err.text);
    cr_assert_str_eq(ds_valid_what(NULL, what), "data.valid");
    ds_valid_close(&valid);
}

Test(valid, nothing)
{
    struct ds_job job = job_of(NULL, 0);
    struct ds_valid valid;

    cr_assert_eq(ds_valid_open(&valid, &job, NULL), 0);
    cr_assert_eq(valid.count, 0);
    ds_valid_close(&valid);
    ds_valid_close(&valid);
}
