/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_pack.c - samples in rows: where they go, that none is lost, and what is open at most.
 */
#include "tests/tempdir.h"

#include <errno.h>
#include <string.h>

#include "runtime/data/pack.h"

TestSuite(pack, .init = tempdir_make, .fini = tempdir_remove);

enum { LENGTH = 10, FILLING = 9, MOST = 4000 };

static const char *out_path(void)
{
    return tempdir_path("out.safetensors");
}

/* Samples of these lengths: sample k has its number modulo 256 in each id, the first of them no
 * target. */
static void write_samples(const size_t *length, size_t samples)
{
    struct ds_token_writer writer;
    struct ds_error err = {0};
    struct ds_pack pack;

    cr_assert_eq(ds_token_writer_open_samples(&writer, out_path(), 256, LENGTH, true, &err), 0);
    cr_assert_eq(ds_pack_open(&pack, LENGTH, ~(uint32_t)FILLING, &writer, &err), 0);
    for (size_t k = 0; k < samples; k++) {
        uint32_t ids[LENGTH];

        for (size_t i = 0; i < length[k]; i++)
            ids[i] = i == 0 ? ~(uint32_t)(k % 256) : (uint32_t)(k % 256);
        cr_assert_eq(ds_pack_put(&pack, ids, length[k], &err), 0, "%s", err.text);
    }
    cr_assert_eq(ds_pack_finish(&pack, &err), 0, "%s", err.text);
    cr_assert_eq(pack.written * LENGTH, writer.count);
    cr_assert_eq(ds_token_writer_commit(&writer, &err), 0, "%s", err.text);
    ds_pack_close(&pack);
}

/* The rows again as "3334441199; ...": ids modulo 10, what is no target in brackets. */
static uint64_t read_rows(char *text, size_t cap, int32_t *ids)
{
    struct ds_error err = {0};
    struct ds_tokens tokens;
    struct ds_map map;
    uint64_t rows;
    size_t at = 0;

    cr_assert_eq(ds_fs_map(out_path(), &map, &err), 0, "%s", err.text);
    cr_assert_eq(
        ds_tokens_parse(&tokens, out_path(), DS_DATA_AUTO, map.data, map.len, LENGTH - 1, &err), 0,
        "%s", err.text);
    rows = tokens.samples;
    cr_assert_leq(rows, MOST);
    cr_assert_eq(ds_tokens_copy(&tokens, map.data, 0, rows * LENGTH, 256, ids, &err), 0);
    for (uint64_t i = 0; i < rows * LENGTH && at + 8 < cap; i++)
        at += (size_t)snprintf(text + at, cap - at, ids[i] < 0 ? "%s[%d]" : "%s%d",
                               i > 0 && i % LENGTH == 0 ? "; " : "",
                               (ids[i] < 0 ? ~ids[i] : ids[i]) % 10);
    ds_map_release(&map);
    return rows;
}

/* Into the fullest row that has room, a row that is full is written at once. */
Test(pack, best_fit)
{
    static const struct {
        size_t samples, length[6];
        const char *want;
    } table[] = {
        {5, {6, 5, 4, 3, 2}, "[0]00000[2]222; [1]1111[3]33[4]4"},
        {3, {7, 6, 3}, "[0]000000[2]22; [1]11111[9][9][9][9]"},
        {2, {10, 2}, "[0]000000000; [1]1[9][9][9][9][9][9][9][9]"},
        {3, {5, 4, 5}, "[0]0000[1]111[9]; [2]2222[9][9][9][9][9]"}, /* one id is no room */
        {1, {9}, "[0]00000000[9]"},
        {0, {0}, ""},
    };

    for (size_t t = 0; t < sizeof(table) / sizeof(table[0]); t++) {
        static int32_t ids[MOST * LENGTH];
        char text[400] = "";

        write_samples(table[t].length, table[t].samples);
        (void)read_rows(text, sizeof(text), ids);
        cr_expect_str_eq(text, table[t].want, "%zu: %s", t, text);
    }
}

/* Every sample is there once and in one piece, with more rows than may be open. */
Test(pack, none_is_lost)
{
    static size_t length[3 * DS_PACK_ROWS];
    static int32_t ids[MOST * LENGTH], again[MOST * LENGTH];
    const size_t samples = sizeof(length) / sizeof(length[0]);
    uint64_t rows, found = 0, filled = 0, all = 0;
    char text[1];

    for (size_t k = 0; k < samples; k++)
        length[k] = k < DS_PACK_ROWS + 100 ? 6 + k % 3 : 2 + k * 7 % 8;
    write_samples(length, samples);
    rows = read_rows(text, 0, ids);
    for (uint64_t r = 0; r < rows; r++)
        for (uint64_t i = 0, n; i < LENGTH; i += n) {
            const int32_t *at = ids + r * LENGTH + i;

            cr_assert_lt(at[0], 0);
            for (n = 1; i + n < LENGTH && at[n] == ~at[0]; n++)
                continue;
            found += n > 1;
            filled += n > 1 ? n : 0;
        }
    for (size_t k = 0; k < samples; k++)
        all += length[k];
    cr_expect(found == samples && filled == all, "%ju of %zu", (uintmax_t)found, samples);
    cr_expect_gt((double)all / (double)(rows * LENGTH), 0.83); /* 0.60 in rows of their own */
    write_samples(length, samples);
    cr_expect_eq(read_rows(text, 0, again), rows);
    cr_expect_arr_eq(ids, again, rows * LENGTH * sizeof(*ids));
}
