/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_data.c - files to samples: globs, several files, orders, damage found while reading.
 */
#include "tests/tempdir.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>

#include "base/wire.h"
#include "runtime/data/data.h"

TestSuite(data, .init = tempdir_make, .fini = tempdir_remove);

enum { SEQUENCE = 4 };

/* Sets for the defaults of these tests: sequence 4, vocabulary 256, in order. */
static struct ds_data_args args_of_sets(const struct ds_rows *sets)
{
    return (struct ds_data_args){.what = "data.train",
                                 .sets = sets,
                                 .order = DS_ORDER_SEQUENTIAL,
                                 .sequence = SEQUENCE,
                                 .vocab = 256,
                                 .seed = 1};
}

/* One set, until the next call. */
static struct ds_data_args args_of(const struct ds_strings *paths)
{
    static struct ds_data_set set;
    static const struct ds_rows sets = {1, &set};

    set = (struct ds_data_set){.path = *paths, .weight = 1};
    return args_of_sets(&sets);
}

static int open_one(struct ds_data **data, const char *path, struct ds_error *err)
{
    struct ds_strings paths = {1, &path};
    struct ds_data_args args = args_of(&paths);

    return ds_data_open(data, &args, err);
}

static struct ds_data *must_open(const struct ds_data_args *args)
{
    struct ds_data *data = NULL;
    struct ds_error err = {0};

    cr_assert_eq(ds_data_open(&data, args, &err), 0, "%s", err.text);
    return data;
}

/* The sample at `position` as text; its ids must be characters. */
static const char *text_at(const struct ds_data *data, uint64_t position)
{
    static char text[SEQUENCE + 2];
    int32_t ids[SEQUENCE + 1];
    struct ds_error err = {0};

    cr_assert_eq(ds_data_read(data, position, ids, &err), 0, "%s", err.text);
    for (int i = 0; i <= SEQUENCE; i++)
        text[i] = (char)ids[i];
    return text;
}

Test(data, text_is_cut_with_one_id_shared)
{
    struct ds_data *data = NULL;

    cr_assert_eq(open_one(&data, tempdir_write("a.txt", "abcdefghijklmn", 14), NULL), 0);
    cr_assert_eq(ds_data_size(data).samples, 3, "'n' is left over");
    cr_assert_eq(ds_data_size(data).tokens, 14);
    cr_assert_eq(ds_data_size(data).files, 1);
    cr_assert_str_eq(text_at(data, 0), "abcde");
    cr_assert_str_eq(text_at(data, 1), "efghi");
    cr_assert_str_eq(text_at(data, 2), "ijklm");
    cr_assert_str_eq(text_at(data, 3), "abcde", "the next epoch");
    ds_data_close(data);
}

/* Files in the order named, each glob sorted, no sample across files, short ones passed over. */
Test(data, several_files)
{
    const char *names[] = {NULL, NULL, NULL};
    struct ds_strings paths = {3, names};
    struct ds_data_args args = args_of(&paths);
    struct ds_data *data;
    static const char *const want[] = {"zzzzz", "11111", "22222", "22222", "33333", "zzzzz"};

    tempdir_write("g2.txt", "222222222", 9);
    tempdir_write("g1.txt", "111111", 6);
    tempdir_write("g3.txt", "33333", 5);
    tempdir_write("g2b.txt", "bbbb", 4);
    tempdir_write("g0.txt", "", 0);
    names[0] = tempdir_write("z.txt", "zzzzz", 5);
    names[1] = tempdir_path("g?*.txt");
    names[2] = names[0]; /* the same file again */
    data = must_open(&args);
    cr_assert_eq(ds_data_size(data).files, 7);
    cr_assert_eq(ds_data_size(data).samples, 6);
    cr_assert_eq(ds_data_size(data).tokens, 5 + 0 + 6 + 9 + 4 + 5 + 5);
    for (uint64_t i = 0; i < 6; i++)
        cr_assert_str_eq(text_at(data, i), want[i], "sample %ju", (uintmax_t)i);
    ds_data_close(data);
}

Test(data, a_name_that_exists_is_no_pattern)
{
    struct ds_data *data = NULL;

    tempdir_write("a1.txt", "wrong", 5);
    cr_assert_eq(open_one(&data, tempdir_write("a[1].txt", "right", 5), NULL), 0);
    cr_assert_eq(ds_data_size(data).files, 1);
    cr_assert_str_eq(text_at(data, 0), "right");
    ds_data_close(data);
}

Test(data, token_streams)
{
    unsigned char bytes[1024 + 40] = {0};
    struct ds_data *data = NULL;

    for (size_t i = 0; i < 10; i++)
        bytes[1024 + 2 * i] = (unsigned char)('a' + i);
    cr_assert_eq(open_one(&data, tempdir_write("a.bin", bytes + 1024, 20), NULL), 0);
    cr_assert_str_eq(text_at(data, 1), "efghi");
    ds_data_close(data);

    ds_put_u32(bytes, 20240520);
    ds_put_u32(bytes + 4, 1);
    ds_put_u32(bytes + 8, 10);
    cr_assert_eq(open_one(&data, tempdir_write("b.bin", bytes, 1024 + 20), NULL), 0);
    cr_assert_str_eq(text_at(data, 1), "efghi");
    ds_data_close(data);

    memset(bytes, 0, sizeof(bytes));
    for (size_t i = 0; i < 10; i++)
        bytes[4 * i] = (unsigned char)('a' + i);
    cr_assert_eq(open_one(&data, tempdir_write("c.u32.bin", bytes, 40), NULL), 0);
    cr_assert_eq(ds_data_size(data).samples, 2);
    cr_assert_str_eq(text_at(data, 1), "efghi");
    ds_data_close(data);
}

static const char *write_samples(const char *name)
{
    static const char header[] =
        "{\"tokens\":{\"dtype\":\"U16\",\"shape\":[2,3,5],\"data_offsets\":[0,60]}}";
    unsigned char bytes[8 + sizeof(header) - 1 + 60] = {0};

    ds_put_u64(bytes, sizeof(header) - 1);
    memcpy(bytes + 8, header, sizeof(header) - 1);
    for (size_t i = 0; i < 30; i++)
        bytes[8 + sizeof(header) - 1 + 2 * i] = (unsigned char)('A' + i);
    return tempdir_write(name, bytes, sizeof(bytes));
}

/* Rows do not overlap, and stand in order unless data.order says shuffle. */
Test(data, samples_are_rows_in_order)
{
    const char *path = write_samples("a.safetensors");
    struct ds_strings paths = {1, &path};
    struct ds_data_args args = args_of(&paths);
    struct ds_data *data;
    char want[SEQUENCE + 2] = {0};

    args.order = DS_ORDER_AUTO;
    data = must_open(&args);
    cr_assert_eq(ds_data_size(data).samples, 6);
    for (uint64_t i = 0; i < 12; i++) {
        for (uint64_t k = 0; k <= SEQUENCE; k++)
            want[k] = (char)('A' + i % 6 * 5 + k);
        cr_assert_str_eq(text_at(data, i), want);
    }
    ds_data_close(data);
}

/* --- order --------------------------------------------------------------------------------- */

/* 8 files of 25 samples whose first id is their number. */
static struct ds_data *numbered(enum ds_data_order order, uint64_t seed)
{
    char bytes[101], name[32];
    const char *glob;
    struct ds_strings paths = {1, &glob};
    struct ds_data_args args = args_of(&paths);

    for (int f = 0; f < 8; f++) {
        memset(bytes, 0, sizeof(bytes));
        for (int i = 0; i < 25; i++)
            bytes[4 * i] = (char)(f * 25 + i);
        (void)snprintf(name, sizeof(name), "n%d.txt", f);
        tempdir_write(name, bytes, sizeof(bytes));
    }
    glob = tempdir_path("n*.txt");
    args.order = order;
    args.seed = seed;
    return must_open(&args);
}

static int32_t number_at(const struct ds_data *data, uint64_t position)
{
    int32_t ids[SEQUENCE + 1];

    cr_assert_eq(ds_data_read(data, position, ids, NULL), 0);
    return ids[0];
}

Test(data, shuffle_permutes_each_epoch_anew)
{
    struct ds_data *data = numbered(DS_ORDER_SHUFFLE, 1);
    unsigned same = 0, in_order = 0;

    cr_assert_eq(ds_data_size(data).samples, 200);
    for (uint64_t epoch = 0; epoch < 3; epoch++) {
        bool seen[256] = {false};

        for (uint64_t i = 0; i < 200; i++) {
            int32_t n = number_at(data, 200 * epoch + i);

            cr_assert_not(seen[n], "sample %d twice in epoch %ju", n, (uintmax_t)epoch);
            seen[n] = true;
            in_order += epoch == 0 && n == (int32_t)i;
            same += epoch > 0 && n == number_at(data, i);
        }
    }
    cr_assert_lt(in_order, 12);
    cr_assert_lt(same, 24);
    ds_data_close(data);
}

/* However many ranks share the positions of a step, and in whatever order they read, the step
 * holds the same samples; two openings agree. */
Test(data, order_does_not_depend_on_ranks)
{
    enum { GLOBAL = 12, STEPS = 40 };
    struct ds_data *one = numbered(DS_ORDER_SHUFFLE, 7), *other = numbered(DS_ORDER_SHUFFLE, 7);
    static const unsigned worlds[] = {1, 2, 3, 4, 6, 12};

    for (size_t w = 0; w < sizeof(worlds) / sizeof(worlds[0]); w++) {
        unsigned share = GLOBAL / worlds[w];

        for (unsigned rank = worlds[w]; rank-- > 0;)
            for (uint64_t step = STEPS; step-- > 0;)
                for (unsigned i = 0; i < share; i++) {
                    uint64_t position = step * GLOBAL + rank * share + i;

                    cr_assert_eq(number_at(other, position), number_at(one, position));
                }
    }
    ds_data_close(one);
    ds_data_close(other);
}

Test(data, seeds_differ)
{
    struct ds_data *one = numbered(DS_ORDER_SHUFFLE, 1), *two = numbered(DS_ORDER_SHUFFLE, 2);
    unsigned same = 0;

    for (uint64_t i = 0; i < 200; i++)
        same += number_at(one, i) == number_at(two, i);
    cr_assert_lt(same, 12);
    ds_data_close(one);
    ds_data_close(two);
}

/* --- mixtures ------------------------------------------------------------------------------ */

/* A text of `samples` samples, each `letter` and then its number in three digits. */
static const char *write_counted(const char *name, char letter, unsigned samples)
{
    char text[SEQUENCE * 500 + 1], number[16];

    cr_assert(samples <= 500);
    for (unsigned i = 0; i < samples; i++) {
        (void)snprintf(number, sizeof(number), "%c%03u", letter, i);
        memcpy(text + (size_t)SEQUENCE * i, number, SEQUENCE);
    }
    text[SEQUENCE * samples] = letter; /* the id that the last sample shares with nobody */
    return tempdir_write(name, text, SEQUENCE * samples + 1);
}

/* Of set `letter`, its sample n. */
static unsigned sample_at(const struct ds_data *data, uint64_t position, char *letter)
{
    const char *text = text_at(data, position);

    *letter = text[0];
    return (unsigned)(100 * (text[1] - '0') + 10 * (text[2] - '0') + (text[3] - '0'));
}

static const char *mix_paths[3];
static struct ds_data_set mix_sets[3];
static const struct ds_rows mix_rows = {3, mix_sets};

/* Sets of 100, 7 and 40 samples, three to one to two. */
static struct ds_data *mixture(enum ds_data_order order, uint64_t seed)
{
    static const struct {
        const char *name;
        char letter;
        unsigned samples;
        double weight;
    } sets[] = {{"a.txt", 'a', 100, 3}, {"b.txt", 'b', 7, 1}, {"c.txt", 'c', 40, 2}};
    struct ds_data_args args = args_of_sets(&mix_rows);

    for (size_t k = 0; k < 3; k++) {
        mix_paths[k] = write_counted(sets[k].name, sets[k].letter, sets[k].samples);
        mix_sets[k] = (struct ds_data_set){.path = {1, &mix_paths[k]}, .weight = sets[k].weight};
    }
    args.order = order;
    args.seed = seed;
    return must_open(&args);
}

/* Each set is read on by itself: in order, or epoch by epoch all of its samples. */
Test(data, sets_of_a_mixture_are_read_on_by_themselves)
{
    static const unsigned samples[] = {100, 7, 40}, share[] = {3, 1, 2};

    for (int order = DS_ORDER_SHUFFLE; order <= DS_ORDER_SEQUENTIAL; order++) {
        struct ds_data *data = mixture((enum ds_data_order)order, 5);
        unsigned turns[3] = {0}, seen[3][100] = {{0}}, in_order = 0;
        bool shuffled = order == DS_ORDER_SHUFFLE;

        cr_assert_eq(ds_data_sets(data), 3);
        cr_assert_eq(ds_data_size(data).samples, 147);
        cr_assert_eq(ds_data_set_size(data, 2).samples, 40);
        for (uint64_t p = 0; p < 4200; p++) {
            char letter;
            unsigned n = sample_at(data, p, &letter), k = (unsigned)(letter - 'a');
            unsigned epoch = turns[k] / samples[k], want = turns[k] % samples[k];

            cr_assert(k < 3 && n < samples[k]);
            cr_assert_eq(seen[k][n]++, epoch, "set %u, sample %u in epoch %u", k, n, epoch);
            in_order += n == want;
            turns[k]++;
            for (unsigned i = 0; i < 3; i++) {
                double off = (double)turns[i] - (double)((p + 1) * share[i]) / 6.0;

                cr_assert(off > -1.0 && off < 1.0, "set %u is off by %g after %ju", i, off,
                          (uintmax_t)p + 1);
            }
        }
        cr_assert(shuffled ? in_order < 1200 : in_order == 4200, "%u in order", in_order);
        ds_data_close(data);
    }
}

/* Positions are all there is to know: backwards, and by parts of a sample. */
Test(data, a_mixture_is_read_at_any_position)
{
    struct ds_data *one = mixture(DS_ORDER_SHUFFLE, 5), *other = mixture(DS_ORDER_SHUFFLE, 5);
    int32_t ids[SEQUENCE + 1], part[2];

    for (uint64_t p = 1000; p-- > 0;) {
        cr_assert_eq(ds_data_read(one, p, ids, NULL), 0);
        cr_assert_eq(ds_data_read_part(other, p, 2, 2, part, NULL), 0);
        cr_assert(part[0] == ids[2] && part[1] == ids[3]);
    }
    ds_data_close(one);
    ds_data_close(other);
}

/* One set, whatever it weighs, has the order that it has alone; as the first of several, too. */
Test(data, the_first_set_has_the_order_that_it_has_alone)
{
    struct ds_data *mixed = mixture(DS_ORDER_SHUFFLE, 5), *alone;
    struct ds_rows first = {1, mix_sets};
    struct ds_data_args args = args_of_sets(&first);

    args.order = DS_ORDER_SHUFFLE;
    args.seed = 5;
    alone = must_open(&args);
    for (uint64_t n = 0; n < 300; n++) {
        int32_t a[SEQUENCE + 1], b[SEQUENCE + 1], c[SEQUENCE + 1];

        cr_assert_eq(ds_data_read(alone, n, a, NULL), 0);
        cr_assert_eq(ds_data_read_set(mixed, 0, n, b, NULL), 0);
        cr_assert_eq(memcmp(a, b, sizeof(a)), 0);
        cr_assert_eq(ds_data_read_set(mixed, 2, n % 40, c, NULL), 0);
        cr_assert_neq(c[0], a[0]);
    }
    ds_data_close(alone);
    ds_data_close(mixed);
}

/* The same file twice is two sets with an order each. */
Test(data, sets_are_shuffled_apart)
{
    const char *path = write_counted("a.txt", 'a', 400);
    struct ds_data_set once = {.path = {1, &path}, .weight = 1}, twice[] = {once, once};
    struct ds_rows sets = {2, twice};
    struct ds_data_args args = args_of_sets(&sets);
    struct ds_data *data;
    unsigned same = 0;

    args.order = DS_ORDER_SHUFFLE;
    data = must_open(&args);
    for (uint64_t p = 0; p < 800; p += 2) {
        char letter;
        unsigned first = sample_at(data, p, &letter), second = sample_at(data, p + 1, &letter);

        same += first == second;
    }
    cr_assert_lt(same, 12);
    ds_data_close(data);
}

Test(data, wrong_sets_are_named)
{
    const char *text = write_counted("a.txt", 'a', 3),
               *ids = tempdir_write("b.bin", "0123456789", 10);
    const char *none = tempdir_path("none.txt");
    const struct ds_data_set a = {.path = {1, &text}, .weight = 1};
    const struct ds_data_set b = {.path = {1, &ids}, .weight = 1};
    const struct ds_data_set missing = {.path = {1, &none}, .weight = 1};
    const struct ds_data_set uneven = {.path = {1, &text}, .weight = 0.3333333};
    struct {
        struct ds_data_set set[2];
        size_t sets;
        int rc;
        const char *text;
    } cases[] = {
        {{a, missing}, 2, -ENOENT, "data.train item 2: no file matches"},
        {{missing}, 1, -ENOENT, "data.train: no file matches"},
        {{a, b}, 2, -EINVAL, "b.bin' holds token ids, which do not mix"},
        {{b, a}, 2, -EINVAL, "a.txt' is text and '"},
        {{uneven}, 1, -EINVAL, "use 0.333333"},
        {{a}, DS_MAX_DATA_SETS + 1, -EINVAL, "more than 256 data sets"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct ds_rows sets = {cases[i].sets, cases[i].set};
        struct ds_data_args args = args_of_sets(&sets);
        struct ds_data *data = NULL;
        struct ds_error err = {0};

        cr_assert_eq(ds_data_open(&data, &args, &err), cases[i].rc, "case %zu: %s", i, err.text);
        cr_assert_null(data);
        cr_assert_not_null(strstr(err.text, cases[i].text), "%s", err.text);
    }
}

/* --- mistakes ------------------------------------------------------------------------------ */

Test(data, wrong_files_are_named, .timeout = 20)
{
    static const unsigned char odd[] = {1, 0, 2};
    struct {
        const char *path;
        int rc;
        const char *text;
    } cases[] = {
        {"none.txt", -ENOENT, "no file matches"},
        {"none*.txt", -ENOENT, "none*.txt"},
        {"short.txt/x", -ENOENT, "no file matches"},
        {"short.txt", -EINVAL, "has 4 ids, 5 are needed"},
        {"empty.bin", -EINVAL, "has 0 ids, 5 are needed"},
        {"folder", -EINVAL, "not a regular file"},
        {"fold*", -EINVAL, "not a regular file"},
        {"fifo", -EINVAL, "not a regular file"},
        {"odd.bin", -EBADMSG, "no whole number of 2-byte ids"},
        {"odd.safetensors", -EBADMSG, "odd.safetensors"},
        {"odd*", -EINVAL, "one source has one format"},
    };

    tempdir_write("short.txt", "abcd", 4);
    tempdir_write("empty.bin", "", 0);
    tempdir_write("odd.bin", odd, sizeof(odd));
    tempdir_write("odd.safetensors", odd, sizeof(odd));
    cr_assert_eq(mkdir(tempdir_path("folder"), 0755), 0);
    cr_assert_eq(mkfifo(tempdir_path("fifo"), 0600), 0);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct ds_data *data = NULL;
        struct ds_error err = {0};

        cr_assert_eq(open_one(&data, tempdir_path(cases[i].path), &err), cases[i].rc, "%s: %s",
                     cases[i].path, err.text);
        cr_assert_null(data);
        cr_assert_not_null(strstr(err.text, cases[i].text), "%s: %s", cases[i].path, err.text);
        cr_assert_eq(strncmp(err.text, "data.train: ", 12), 0, "%s", err.text);
    }
}

Test(data, arguments_out_of_range)
{
    static const struct {
        uint64_t sequence, vocab;
    } cases[] = {
        {0, 256}, {UINT64_MAX, 256}, {DS_MAX_CONTEXT + 1, 256}, {4, 0}, {4, DS_MAX_VOCAB + 1},
    };
    const char *path = tempdir_write("a.txt", "abcdefgh", 8);
    struct ds_strings paths = {1, &path}, none = {0, NULL};
    struct ds_data *data = NULL;
    struct ds_data_args args;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        args = args_of(&paths);
        args.sequence = cases[i].sequence;
        args.vocab = cases[i].vocab;
        cr_assert_eq(ds_data_open(&data, &args, NULL), -EINVAL, "case %zu", i);
    }
    args = args_of(&none);
    cr_assert_eq(ds_data_open(&data, &args, NULL), -EINVAL);
    ds_data_close(NULL);
}

Test(data, a_token_outside_the_vocabulary_is_placed)
{
    unsigned char bytes[1024 + 2 * 100] = {0};
    struct ds_data *data = NULL;
    struct ds_error err = {0};
    int32_t ids[SEQUENCE + 1];
    const char *path;

    ds_put_u32(bytes, 20240520);
    ds_put_u32(bytes + 4, 1);
    ds_put_u32(bytes + 8, 100);
    bytes[1024 + 2 * 42 + 1] = 1; /* id 42 is 256 */
    path = tempdir_write("a.bin", bytes, sizeof(bytes));
    cr_assert_eq(open_one(&data, path, NULL), 0);
    for (uint64_t sample = 0; sample < ds_data_size(data).samples; sample++)
        cr_assert_eq(ds_data_read(data, sample, ids, &err), sample == 10 ? -EBADMSG : 0);
    cr_assert_not_null(strstr(err.text, path));
    cr_assert_not_null(strstr(err.text, "token 256 at byte 1108 is outside the vocabulary of 256"),
                       "%s", err.text);
    ds_data_close(data);
}

/* A file that loses its end while it is mapped is an error, never a crash; one that is replaced
 * or removed is read on as it was. */
Test(data, files_that_change_under_the_reader)
{
    static char big[100000];
    struct ds_data *data = NULL;
    struct ds_error err = {0};
    int32_t ids[SEQUENCE + 1];
    const char *path;

    memset(big, 'x', sizeof(big));
    path = tempdir_write("a.txt", big, sizeof(big));
    cr_assert_eq(open_one(&data, path, NULL), 0);
    cr_assert_eq(truncate(path, 10), 0);
    cr_assert_eq(ds_data_read(data, 20000, ids, &err), -EBADMSG);
    cr_assert_not_null(strstr(err.text, "had 100000 bytes when it was opened and has 10 now"), "%s",
                       err.text);
    ds_data_close(data);

    path = tempdir_write("b.txt", big, sizeof(big));
    cr_assert_eq(open_one(&data, path, NULL), 0);
    cr_assert_eq(ds_fs_replace(path, "y", 1, NULL), 0);
    cr_assert_str_eq(text_at(data, 20000), "xxxxx");
    cr_assert_eq(unlink(path), 0);
    cr_assert_str_eq(text_at(data, 20000), "xxxxx");
    ds_data_close(data);

    path = tempdir_write("c.txt", big, 50000);
    cr_assert_eq(open_one(&data, path, NULL), 0);
    tempdir_write("c.txt", big, sizeof(big));
    cr_assert_eq(ds_data_size(data).samples, 12499, "what was added later is not read");
    cr_assert_str_eq(text_at(data, 12498), "xxxxx");
    ds_data_close(data);
}

/* Many files hold no descriptor each. */
Test(data, files_cost_no_descriptors)
{
    struct ds_data *data = numbered(DS_ORDER_SEQUENTIAL, 1);
    int before = open("/dev/null", O_RDONLY | O_CLOEXEC), after;
    struct ds_data *again;

    close(before);
    again = numbered(DS_ORDER_SEQUENTIAL, 1);
    after = open("/dev/null", O_RDONLY | O_CLOEXEC);
    close(after);
    cr_assert_eq(after, before);
    ds_data_close(again);
    ds_data_close(data);
}
