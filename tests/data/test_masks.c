/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_masks.c - samples of which some ids are no targets: read, counted, shuffled, in mixtures,
 * damaged.
 */
#include "tests/tempdir.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "base/wire.h"
#include "runtime/data/data.h"
#include "runtime/data/order.h"

TestSuite(masks, .init = tempdir_make, .fini = tempdir_remove);

enum { SEQUENCE = 4 };

static struct ds_data *must_open_in(enum ds_data_order order, struct ds_data_set *set, size_t sets)
{
    const struct ds_rows rows = {sets, set};
    const struct ds_data_args args = {.what = "data.train",
                                      .sets = &rows,
                                      .order = order,
                                      .sequence = SEQUENCE,
                                      .vocab = 256,
                                      .seed = 1};
    struct ds_data *data = NULL;
    struct ds_error err = {0};

    cr_assert_eq(ds_data_open(&data, &args, &err), 0, "%s", err.text);
    return data;
}

static struct ds_data *must_open(struct ds_data_set *set, size_t sets)
{
    return must_open_in(DS_ORDER_SEQUENTIAL, set, sets);
}

static struct ds_data *must_open_one(const char *path)
{
    struct ds_data_set set = {.path = {1, &path}, .weight = 1};

    return must_open(&set, 1);
}

/* Three samples of ids 1 to 15; every third id, from `skip` on, is no target. */
static const char *masked_file(const char *name, size_t skip, int wrong)
{
    static const char header[] =
        "{\"loss_mask\":{\"dtype\":\"U8\",\"shape\":[3,5],\"data_offsets\":[30,45]},"
        "\"tokens\":{\"dtype\":\"U16\",\"shape\":[3,5],\"data_offsets\":[0,30]}}";
    unsigned char bytes[8 + sizeof(header) - 1 + 45] = {0};
    unsigned char *ids = bytes + sizeof(bytes) - 45, *mask = ids + 30;

    ds_put_u64(bytes, sizeof(header) - 1);
    memcpy(bytes + 8, header, sizeof(header) - 1);
    for (size_t i = 0; i < 15; i++) {
        ids[2 * i] = (unsigned char)(i + 1);
        mask[i] = i % 3 != skip;
    }
    if (wrong >= 0)
        mask[wrong] = 9;
    return tempdir_write(name, bytes, sizeof(bytes));
}

Test(masks, a_mask_says_what_is_no_target)
{
    const char *paths[] = {masked_file("a.safetensors", 2, -1),
                           masked_file("b.safetensors", 1, -1)};
    struct ds_data_set set = {.path = {2, paths}, .weight = 1};
    struct ds_data *data = must_open(&set, 1);
    int32_t ids[SEQUENCE + 1], part[2];
    uint64_t targets, all = 0;

    cr_assert(ds_data_masked(data));
    for (uint64_t p = 0; p < 8; p++) { /* 6 samples, and on */
        uint64_t want = 0, skip = p % 6 < 3 ? 2 : 1;

        cr_assert_eq(ds_data_read(data, p, ids, NULL), 0);
        for (size_t i = 0; i <= SEQUENCE; i++) {
            size_t k = p % 3 * 5 + i;

            cr_assert_eq(ids[i], k % 3 == skip ? ~(int32_t)(k + 1) : (int32_t)(k + 1));
            want += i > 0 && k % 3 != skip; /* nothing is in front of the first */
        }
        cr_assert_eq(ds_data_read_part(data, p, 2, 2, part, NULL), 0);
        cr_assert_arr_eq(part, ids + 2, sizeof(part));
        cr_assert_eq(ds_data_targets(data, p, 1, &targets, NULL), 0);
        cr_assert_eq(targets, want, "sample %ju", (uintmax_t)p);
        all += want;
    }
    cr_assert_eq(ds_data_targets(data, 0, 8, &targets, NULL), 0);
    cr_assert_eq(targets, all);
    ds_data_close(data);
}

Test(masks, without_a_mask_all_are_targets)
{
    struct ds_data *data = must_open_one(tempdir_write("a.txt", "abcdefghijklmn", 14));
    uint64_t targets;

    cr_assert(!ds_data_masked(data));
    cr_assert_eq(ds_data_targets(data, 1, 7, &targets, NULL), 0);
    cr_assert_eq(targets, 7 * SEQUENCE);
    ds_data_close(data);
}

/* Shuffled where that is asked for, as sequences of a stream are, each with its mask. */
Test(masks, samples_are_shuffled_where_asked)
{
    const char *paths[] = {masked_file("a.safetensors", 2, -1),
                           masked_file("b.safetensors", 1, -1)};
    struct ds_data_set set = {.path = {2, paths}, .weight = 1};
    struct ds_data *data = must_open(&set, 1), *as_is = must_open_in(DS_ORDER_AUTO, &set, 1);
    struct ds_data *shuffled = must_open_in(DS_ORDER_SHUFFLE, &set, 1);
    int32_t ids[SEQUENCE + 1], want[SEQUENCE + 1];
    uint64_t targets, of_it;
    unsigned moved = 0;

    for (uint64_t p = 0; p < 24; p++) {
        uint64_t row = ds_order_sample(DS_ORDER_SHUFFLE, 1, 6, p);

        moved += row != p % 6;
        cr_assert_eq(ds_data_read(data, row, want, NULL), 0);
        cr_assert_eq(ds_data_read(shuffled, p, ids, NULL), 0);
        cr_assert_arr_eq(ids, want, sizeof(ids));
        cr_assert_eq(ds_data_targets(data, row, 1, &of_it, NULL), 0);
        cr_assert_eq(ds_data_targets(shuffled, p, 1, &targets, NULL), 0);
        cr_assert_eq(targets, of_it);
        cr_assert_eq(ds_data_read(data, p, want, NULL), 0);
        cr_assert_eq(ds_data_read(as_is, p, ids, NULL), 0);
        cr_assert_arr_eq(ids, want, sizeof(ids), "by default they stand as they are");
    }
    cr_assert_gt(moved, 12);
    ds_data_close(data);
    ds_data_close(as_is);
    ds_data_close(shuffled);
}

/* Of a mixture some sets have masks: the others' ids are targets. */
Test(masks, masks_of_a_mixture)
{
    const char *plain = tempdir_write("plain.u32.bin", (const char[40]){1, 0}, 40);
    const char *some = masked_file("some.safetensors", 2, -1);
    struct ds_data_set set[] = {{.path = {1, &plain}, .weight = 1},
                                {.path = {1, &some}, .weight = 1}};
    struct ds_data *data = must_open(set, 2);
    uint64_t targets, more;

    cr_assert(ds_data_masked(data));
    cr_assert_eq(ds_data_targets(data, 0, 2, &targets, NULL), 0);
    cr_assert_eq(ds_data_targets(data, 4, 2, &more, NULL), 0);
    cr_assert(targets == 4 + 3 && more == 4 + 2, "%ju, %ju", (uintmax_t)targets, (uintmax_t)more);
    ds_data_close(data);
}

Test(masks, a_wrong_mask_is_placed)
{
    const char *path = masked_file("a.safetensors", 2, 12);
    struct ds_data *data = must_open_one(path);
    struct ds_error err = {0};
    int32_t ids[SEQUENCE + 1];
    uint64_t targets;

    cr_assert_eq(ds_data_targets(data, 0, 2, &targets, NULL), 0);
    cr_assert_eq(ds_data_targets(data, 0, 3, &targets, &err), -EBADMSG);
    cr_assert_not_null(strstr(err.text, path), "%s", err.text);
    cr_assert_not_null(strstr(err.text, "mask 9 at byte"), "%s", err.text);
    cr_assert_eq(ds_data_read(data, 2, ids, NULL), -EBADMSG);
    ds_data_close(data);
}
