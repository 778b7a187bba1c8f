/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_faults.c - opening a data source when any call or allocation fails: an error, nothing kept.
 */
#include "tests/faults.h"
#include "tests/tempdir.h"

#include <string.h>

#include "runtime/data/data.h"

TestSuite(data_faults, .init = tempdir_make, .fini = tempdir_remove);

Test(data_faults, open)
{
    const char *names[] = {NULL, NULL};
    struct ds_strings paths = {2, names};
    struct ds_data_args args = {.what = "data.train", .paths = &paths, .sequence = 4, .vocab = 256};
    static const struct {
        unsigned kind;
        int code;
    } kinds[] = {{FAULT_IO, EIO}, {FAULT_MEMORY, ENOMEM}};

    names[0] = tempdir_write("a.txt", "abcdefgh", 8);
    tempdir_write("b.txt", "abcdefgh", 8);
    names[1] = tempdir_path("*.txt");
    for (size_t k = 0; k < 2; k++) {
        unsigned failures = 0;

        faults_kinds = kinds[k].kind;
        for (unsigned n = 1; faults_next(n, kinds[k].code); n++) {
            struct ds_data *data = NULL;
            struct ds_error err = {0};
            int lowest = dup(0), again, rc;

            close(lowest);
            rc = ds_data_open(&data, &args, &err);
            faults_off();
            failures += faults_hit;
            cr_assert_eq(rc, faults_hit > 0 ? -kinds[k].code : 0, "call %u: %s", n, err.text);
            cr_assert_eq(data != NULL, rc == 0);
            cr_assert(rc == 0 || strncmp(err.text, "data.train: ", 12) == 0, "%s", err.text);
            ds_data_close(data);
            again = dup(0);
            close(again);
            cr_assert_eq(again, lowest, "call %u leaks a descriptor", n);
        }
        cr_assert_geq(failures, 4, "%u failures of kind %zu", failures, k);
    }
}
