/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_views.c - tensors whose columns are divided among ranks: saved in one division, loaded in
 * every other, and to whoever reads whole tensors the same as if they had been saved whole.
 */
#include <errno.h>

#include "runtime/ckpt/inspect.h"
#include "runtime/ckpt/safetensors.h"
#include "tests/ckpt/divisions.h"
#include "tests/ckpt/old.h"

TestSuite(views, .init = tempdir_make, .fini = tempdir_remove, .timeout = 120);

static const uint64_t blocks[] = {8, 64, 0, 40};

static struct path step_of(const char *run)
{
    return held(at(run, "checkpoints/step-00000009"));
}

static void expect_loads(const char *step, const struct division *d, unsigned round)
{
    for (unsigned r = 0; r < world_of(d); r++) {
        struct ds_error err = {0};
        struct ds_ckpt_state state;
        struct held held;

        held_init(&held, d, r, false);
        cr_assert(ds_ckpt_load(step, &state, held.weight, TENSORS, held.moment, TENSORS, &err) == 0,
                  "round %u, rank %u of %u x %u x %u: %s", round, r, d->parts, d->shards,
                  d->replicas, err.text);
        cr_assert(held_is_right(&held), "round %u, rank %u of %u x %u x %u", round, r, d->parts,
                  d->shards, d->replicas);
        held_release(&held);
    }
}

static void save_whole(const char *run)
{
    struct dice dice = {.seed = 3};
    struct division whole;
    struct ds_error err = {0};

    divide(&whole, &dice, 1, 1, 1);
    cr_assert(save_division(&whole, run, 0, false, &err) == 0, "%s", err.text);
}

static void expect_equal(const char *a, const char *b)
{
    struct ds_ckpt_diff diff;
    struct ds_error err = {0};

    cr_assert(ds_ckpt_diff(a, b, &diff, &err) == 0, "%s", err.text);
    cr_assert(diff.compared == 2 * (size_t)TENSORS && diff.count == 0);
    ds_ckpt_diff_release(&diff);
}

/* Views have been saved, once each; version 3 says so, and nothing else does. */
static bool check_manifest(const char *step, const struct division *d)
{
    struct ds_buf text = slurp(at(step, "manifest.json"));
    bool views = strstr(text.data, "\"views\":") != NULL;
    uint64_t bytes = 0, elems = 0;
    struct ds_manifest m;

    cr_assert((strstr(text.data, views ? "\"version\":3," : "\"version\":2,") != NULL));
    cr_assert(d->parts > 1 || !views);
    cr_assert(ds_manifest_parse(&m, text.data, text.len, NULL) == 0);
    for (size_t i = 0; i < m.files; i++)
        bytes += m.file[i].bytes - m.file[i].header_bytes;
    for (size_t i = 0; i < TENSORS; i++)
        elems += rows_of(i) * columns_of(i);
    cr_assert(bytes == 2 * elems * sizeof(float));
    ds_manifest_release(&m);
    ds_buf_release(&text);
    return views;
}

Test(views, every_division_loads_every_other)
{
    enum { SAVES = 24, LOADS = 12 };
    struct path whole = held("whole"), plain = step_of("whole");
    struct dice dice = {.seed = 2};
    unsigned with_views = 0;

    save_whole(whole.text);
    for (unsigned i = 0; i < SAVES; i++) {
        struct division d;
        struct path run, step;
        struct ds_error err = {0};
        char name[32];

        (void)snprintf(name, sizeof(name), "run-%u", i);
        run = held(name);
        step = step_of(name);
        divide_any(&d, &dice);
        cr_assert(save_division(&d, run.text, blocks[i % 4], i % 3 == 0, &err) == 0, "%u: %s", i,
                  err.text);
        with_views += check_manifest(step.text, &d);
        cr_assert(ds_ckpt_verify(step.text, &err) == 0, "%u: %s", i, err.text);
        expect_equal(step.text, plain.text);
        for (unsigned j = 0; j < LOADS; j++) {
            divide_any(&d, &dice);
            expect_loads(step.text, &d, i);
            if (i == 0)
                expect_loads(plain.text, &d, i);
        }
        remove_dir(run.text);
    }
    cr_assert(with_views > SAVES / 2, "%u", with_views);
}

/* Columns out of a checkpoint of version 1, which has one sum for a whole range. */
Test(views, are_loaded_from_the_first_version)
{
    struct path run = held("run"), step = step_of("run");
    struct dice dice = {.seed = 9};

    save_whole(run.text);
    make_old(step.text);
    for (unsigned i = 0; i < 8; i++) {
        struct division d;

        divide_any(&d, &dice);
        expect_loads(step.text, &d, i);
    }
}

/* --- what the files look like --------------------------------------------------------------- */

/* One tensor of 3 x 8, in two views; the first is cut in the middle of a row. */
static const struct ds_ckpt_view ends = {2, {{0, 2}, {6, 2}}}, middle = {1, {{2, 4}}};

static void hold_one(struct held *held, const struct ds_ckpt_view *view, uint64_t first,
                     uint64_t count)
{
    struct ds_ckpt_tensor *t = &held->weight[0];

    t->shape[0] = 3;
    t->shape[1] = 8;
    t->view = *view;
    t->first = first;
    t->count = count;
    free(t->data);
    t->data = calloc(count, sizeof(float));
}

static void hold_example(struct held *held, unsigned rank)
{
    for (size_t i = 0; i < TENSORS; i++)
        held->weight[i].count = held->moment[i].count = 0;
    if (rank < 2)
        hold_one(held, &ends, rank == 0 ? 0 : 5, rank == 0 ? 5 : 7);
    else
        hold_one(held, &middle, 0, 12);
    held->weight[0].replicas = 1;
    held->weight[0].replica = 0;
}

static int save_spoilt(void (*spoil)(struct held *held, unsigned rank), const char *run,
                       struct ds_error *err)
{
    struct division d = {.parts = 3, .shards = 1, .replicas = 1};
    struct dice dice = {.seed = 4};
    int rc;

    divide(&d, &dice, 3, 1, 1);
    spoil_held = spoil;
    rc = save_division(&d, run, 0, false, err);
    spoil_held = NULL;
    return rc;
}

static void expect_entry(const char *step, const char *file, const char *entry, unsigned ndim,
                         uint64_t rows, uint64_t cols)
{
    struct ds_buf bytes = slurp(at(step, file));
    struct ds_safetensors st;
    struct ds_error err = {0};

    cr_assert(ds_safetensors_parse(&st, bytes.data, bytes.len, bytes.len, &err) == 0, "%s",
              err.text);
    cr_assert(st.count == 1 && strcmp(st.tensor[0].name, entry) == 0, "%s", st.tensor[0].name);
    cr_assert(st.tensor[0].ndim == ndim && st.tensor[0].shape[0] == rows);
    cr_assert(ndim == 1 || st.tensor[0].shape[1] == cols);
    ds_safetensors_release(&st);
    ds_buf_release(&bytes);
}

Test(views, have_readable_names_in_files_and_their_columns_in_the_manifest)
{
    struct path run = held("run"), step = step_of("run");
    struct ds_error err = {0};
    struct ds_buf text;

    cr_assert(save_spoilt(hold_example, run.text, &err) == 0, "%s", err.text);
    expect_entry(step.text, "weights-00001-of-00003.safetensors", "attn.w[:,0:2,6:8][0:5]", 1, 5,
                 0);
    expect_entry(step.text, "weights-00002-of-00003.safetensors", "attn.w[:,0:2,6:8][5:12]", 1, 7,
                 0);
    expect_entry(step.text, "weights-00003-of-00003.safetensors", "attn.w[:,2:6]", 2, 3, 4);
    text = slurp(at(step.text, "manifest.json"));
    cr_assert(
        strstr(text.data, "\"shape\":[3,8],\"views\":[{\"columns\":[[0,2],[6,8]],\"ranges\""));
    cr_assert(strstr(text.data, "{\"columns\":[[2,6]],\"ranges\""));
    ds_buf_release(&text);
}

/* Runs that touch, and all columns in runs. */
static void as_runs(struct held *held, unsigned rank)
{
    const struct ds_ckpt_view thirds = {3, {{0, 8}, {8, 8}, {16, 8}}};

    (void)rank;
    held->weight[0].view = held->moment[1].view = thirds;
}

Test(views, of_all_columns_are_no_views)
{
    struct path a = held("a"), b = held("b"), in_a = step_of("a"), in_b = step_of("b");
    const char *files[] = {"manifest.json", "weights-00001-of-00001.safetensors",
                           "optim-00001-of-00001.safetensors"};

    save_whole(a.text);
    spoil_held = as_runs;
    save_whole(b.text);
    spoil_held = NULL;
    for (size_t i = 0; i < 3; i++) {
        struct ds_buf x = slurp(at(in_a.text, files[i])), y = slurp(at(in_b.text, files[i]));

        cr_assert(x.len == y.len && memcmp(x.data, y.data, x.len) == 0, "%s", files[i]);
        ds_buf_release(&x);
        ds_buf_release(&y);
    }
}

/* --- what is no checkpoint ------------------------------------------------------------------ */

static void overlap(struct held *held, unsigned rank)
{
    hold_example(held, rank);
    if (rank == 2)
        hold_one(held, &(struct ds_ckpt_view){1, {{2, 5}}}, 0, 15);
}

static void hole(struct held *held, unsigned rank)
{
    hold_example(held, rank);
    if (rank == 2)
        hold_one(held, &(struct ds_ckpt_view){1, {{3, 3}}}, 0, 9);
}

static void at_the_end(struct held *held, unsigned rank)
{
    hold_example(held, rank);
    if (rank < 2)
        hold_one(held, &(struct ds_ckpt_view){1, {{0, 2}}}, rank == 0 ? 0 : 3, 3);
}

static void whole_beside(struct held *held, unsigned rank)
{
    hold_example(held, rank);
    if (rank == 2)
        hold_one(held, &(struct ds_ckpt_view){0}, 12, 12);
}

static void gap_in_one(struct held *held, unsigned rank)
{
    hold_example(held, rank);
    if (rank == 1)
        hold_one(held, &ends, 6, 6);
}

static void twice_in_one(struct held *held, unsigned rank)
{
    hold_example(held, rank);
    if (rank == 1)
        hold_one(held, &ends, 4, 8);
}

static void beyond(struct held *held, unsigned rank)
{
    hold_example(held, rank);
    if (rank == 2)
        hold_one(held, &middle, 0, 13);
}

static void out_of_order(struct held *held, unsigned rank)
{
    hold_example(held, rank);
    if (rank == 0)
        hold_one(held, &(struct ds_ckpt_view){2, {{6, 2}, {0, 2}}}, 0, 5);
}

static void no_such_column(struct held *held, unsigned rank)
{
    hold_example(held, rank);
    if (rank == 2)
        hold_one(held, &(struct ds_ckpt_view){1, {{2, 7}}}, 0, 12);
}

Test(views, that_are_not_the_whole_are_no_checkpoint)
{
    /* clang-format off */
    static const struct { void (*spoil)(struct held *, unsigned); const char *says; } cases[] = {
        {overlap, "tensor 'attn.w': columns 6 to 7 are in two of its views"},
        {hole, "tensor 'attn.w': columns 2 to 3 are in none of its views"},
        {at_the_end, "tensor 'attn.w': columns 6 to 8 are in none of its views"},
        {whole_beside, "tensor 'attn.w': columns 0 to 2 are in two of its views"},
        {gap_in_one, "tensor 'attn.w[:,0:2,6:8]': no rank gave elements 5 to 6"},
        {twice_in_one, "tensor 'attn.w[:,0:2,6:8]': elements 4 to 5 were given twice"},
        {beyond, "tensor 'attn.w' has no elements 0 to 13"},
        {out_of_order, "tensor 'attn.w': run 1 of a view's columns does not lie behind run 0"},
        {no_such_column, "tensor 'attn.w': run 0 of a view, 7 columns from 2 on, is not in 8"},
    };
    /* clang-format on */
    struct path run = held("run"), step = step_of("run");

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct ds_error err = {0};

        cr_assert(save_spoilt(cases[i].spoil, run.text, &err) == -EINVAL, "%s", err.text);
        cr_assert(strstr(err.text, cases[i].says) != NULL, "'%s' not in '%s'", cases[i].says,
                  err.text);
        cr_assert(!exists(step.text));
    }
}

Test(views, that_a_tensor_has_not_are_not_loaded)
{
    struct path run = held("run"), step = step_of("run");
    struct dice dice = {.seed = 3};
    struct ds_ckpt_state state;
    struct ds_error err = {0};
    struct division d;
    struct held held;

    save_whole(run.text);
    divide(&d, &dice, 1, 1, 1);
    held_init(&held, &d, 0, false);
    held.weight[0].view = (struct ds_ckpt_view){1, {{20, 5}}};
    cr_assert(ds_ckpt_load(step.text, &state, held.weight, TENSORS, NULL, 0, &err) == -EINVAL);
    cr_assert(strstr(err.text, "'attn.w': run 0 of a view, 5 columns from 20 on, is not in 24"),
              "%s", err.text);
    held.weight[0].view = (struct ds_ckpt_view){1, {{20, 4}}};
    cr_assert(ds_ckpt_load(step.text, &state, held.weight, TENSORS, NULL, 0, &err) == -EINVAL);
    cr_assert(strstr(err.text, "tensor 'attn.w' has no elements 0 to 120"), "%s", err.text);
    cr_assert(((float *)held.weight[1].data)[0] == -1.0f, "touched before all was known to fit");
    held_release(&held);
}

/* --- damage --------------------------------------------------------------------------------- */

/* Do the ranks of a division find what is wrong, and say in which file? */
static bool find(const char *step, const struct division *reader, const char *file)
{
    bool found = false;

    for (unsigned r = 0; r < world_of(reader) && !found; r++) {
        struct ds_error err = {0};
        struct ds_ckpt_state state;
        struct held held;
        int rc;

        held_init(&held, reader, r, false);
        rc = ds_ckpt_load(step, &state, held.weight, TENSORS, held.moment, TENSORS, &err);
        cr_assert(rc == 0 || (rc == -EBADMSG && strstr(err.text, file) != NULL), "%s", err.text);
        found = rc < 0;
        held_release(&held);
    }
    return found;
}

Test(views, a_flipped_bit_is_found_by_whoever_reads_it)
{
    struct path run = held("run"), step = step_of("run");
    struct division saved, reader[2];
    struct dice dice = {.seed = 5};
    struct ds_manifest m;

    divide(&saved, &dice, 3, 2, 1);
    divide(&reader[0], &dice, 1, 1, 1);
    divide(&reader[1], &dice, 4, 1, 2);
    cr_assert(save_division(&saved, run.text, 16, false, NULL) == 0);
    cr_assert(ds_manifest_load(&m, at(step.text, "manifest.json"), NULL) == 0);
    for (size_t f = 0; f < m.files; f++) {
        struct path path = held(at("run/checkpoints/step-00000009", m.file[f].name));
        struct ds_buf bytes = slurp(path.text);

        for (size_t b = f % 23; b < bytes.len; b += 23) {
            struct ds_error err = {0};

            bytes.data[b] = (char)(bytes.data[b] ^ (1 << b % 8));
            spill(path.text, bytes.data, bytes.len);
            cr_assert(ds_ckpt_verify(step.text, &err) == -EBADMSG);
            cr_assert(strstr(err.text, m.file[f].name) != NULL, "%s", err.text);
            for (unsigned i = 0; i < 2; i++)
                cr_assert(find(step.text, &reader[i], m.file[f].name), "file %zu byte %zu", f, b);
            bytes.data[b] = (char)(bytes.data[b] ^ (1 << b % 8));
        }
        spill(path.text, bytes.data, bytes.len);
        ds_buf_release(&bytes);
    }
    ds_manifest_release(&m);
}

static int load_columns(const char *step, const struct ds_ckpt_view *view)
{
    struct held held = {0};
    struct ds_ckpt_state state;
    int rc;

    hold_one(&held, view, 0, 12);
    held.weight[0].ndim = 2;
    (void)snprintf(held.weight[0].name, sizeof(held.weight[0].name), "%s", tensors[0].name);
    rc = ds_ckpt_load(step, &state, held.weight, 1, NULL, 0, NULL);
    held_release(&held);
    return rc;
}

/* Neither where the very columns lie nor where others take some from. */
Test(views, that_are_not_asked_for_are_not_read)
{
    const struct ds_ckpt_view inside = {2, {{0, 2}, {6, 2}}}, beside = {2, {{1, 2}, {6, 2}}};
    struct path run = held("run"), step = step_of("run");
    struct path file = held("run/checkpoints/step-00000009/weights-00003-of-00003.safetensors");
    struct ds_buf bytes;

    cr_assert(save_spoilt(hold_example, run.text, NULL) == 0);
    bytes = slurp(file.text);
    bytes.data[bytes.len - 1] ^= 1;
    spill(file.text, bytes.data, bytes.len);
    ds_buf_release(&bytes);
    cr_assert(load_columns(step.text, &inside) == 0);
    cr_assert(load_columns(step.text, &(struct ds_ckpt_view){3, {{0, 1}, {1, 1}, {6, 2}}}) == 0);
    cr_assert(load_columns(step.text, &beside) == -EBADMSG);
    cr_assert(load_columns(step.text, &middle) == -EBADMSG);
}

/* --- more than is moved at a time ----------------------------------------------------------- */

enum { ROWS_OF_LARGE = 3001, COLUMNS_OF_LARGE = 1021 };

static struct ds_ckpt_tensor large_tensor(const struct ds_ckpt_view *view, float *data)
{
    struct ds_ckpt_tensor t = {.name = "large",
                               .dtype = DS_F32,
                               .ndim = 2,
                               .shape = {ROWS_OF_LARGE, COLUMNS_OF_LARGE},
                               .view = *view,
                               .replicas = 1,
                               .data = data};

    t.count = ROWS_OF_LARGE * ds__view_width(view, COLUMNS_OF_LARGE);
    return t;
}

static void save_large(const char *run, const struct ds_ckpt_view *view, size_t views, float *data)
{
    struct ds_ckpt_save_args args = save_args(run, &(struct set){0}, 9);
    struct ds_ckpt_tensor t[3];
    struct ds_error err = {0};

    for (size_t v = 0; v < views; v++) {
        t[v] = large_tensor(&view[v], data);
        for (uint64_t k = 0; k < t[v].count; k++)
            data[k] = (float)place_of(&view[v], COLUMNS_OF_LARGE, k);
        data += t[v].count;
    }
    args.weights = t;
    args.n_weights = views;
    args.n_moments = 0;
    cr_assert(ds_ckpt_save(&args, &err) == 0, "%s", err.text);
}

static void load_large(const char *step, const struct ds_ckpt_view *view, bool on_line, float *data)
{
    const struct ds_ckpt_line line = {.read = get, .write = put, .user = data};
    struct ds_ckpt_tensor t = large_tensor(view, data);
    struct ds_ckpt_state state;
    struct ds_error err = {0};

    t.first = 1234567;
    t.count -= t.first + 89;
    if (on_line) {
        t.line = &line;
        t.data = NULL;
    }
    data[t.count] = CANARY;
    cr_assert(ds_ckpt_load(step, &state, &t, 1, NULL, 0, &err) == 0, "%s", err.text);
    for (uint64_t k = 0; k < t.count; k++)
        cr_assert(data[k] == (float)place_of(view, COLUMNS_OF_LARGE, t.first + k));
    cr_assert(data[t.count] == CANARY);
}

Test(views, of_more_than_fits_in_a_room_come_piece_by_piece)
{
    static const struct ds_ckpt_view saved[3] = {{2, {{0, 100}, {900, 121}}},
                                                 {3, {{100, 1}, {102, 500}, {700, 200}}},
                                                 {2, {{101, 1}, {602, 98}}}};
    static const struct ds_ckpt_view wanted[] = {{0}, {2, {{1, 511}, {650, 371}}}};
    struct path views = held("views"), whole = held("whole");
    struct path in_views = step_of("views"), in_whole = step_of("whole");
    float *data = calloc((size_t)ROWS_OF_LARGE * COLUMNS_OF_LARGE + 1, sizeof(float));
    struct ds_ckpt_diff diff;

    save_large(views.text, saved, 3, data);
    save_large(whole.text, wanted, 1, data);
    for (size_t i = 0; i < 2; i++) {
        load_large(in_views.text, &wanted[i], i == 0, data);
        load_large(in_whole.text, &wanted[i], i == 1, data);
    }
    cr_assert(ds_ckpt_diff(in_views.text, in_whole.text, &diff, NULL) == 0);
    cr_assert(diff.compared == 1 && diff.count == 0);
    ds_ckpt_diff_release(&diff);
    free(data);
}
