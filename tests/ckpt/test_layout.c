/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_layout.c - what was saved in one layout of ranks is loaded in every other, to the bit.
 *
 * The layouts are those that plans make: all tensors on all ranks, equal slices of the line that
 * they make together (with small ones left whole), the same within groups of ranks, and whole
 * tensors with one owner each.  Sizes are odd and nothing divides anything.
 */
#include <errno.h>

#include "runtime/ckpt/inspect.h"
#include "runtime/ckpt/manifest.h"
#include "tests/ckpt/layouts.h"
#include "tests/ckpt/old.h"

TestSuite(layout, .init = tempdir_make, .fini = tempdir_remove, .timeout = 120);

/* clang-format off */
static const struct layout layouts[] = {
    {WHOLE, 1, 1},   {WHOLE, 2, 2},   {WHOLE, 3, 3},  {WHOLE, 5, 5},
    {STATES, 2, 2},  {STATES, 3, 3},  {STATES, 4, 2}, {STATES, 16, 16},
    {SLICES, 1, 1},  {SLICES, 2, 2},  {SLICES, 3, 3}, {SLICES, 4, 4},  {SLICES, 7, 7},
    {SLICES, 4, 2},  {SLICES, 6, 3},  {SLICES, 6, 2}, {SLICES, 6, 1},
    {OWNERS, 2, 2},  {OWNERS, 3, 3},  {OWNERS, 6, 2},
};
/* clang-format on */
enum { LAYOUTS = sizeof(layouts) / sizeof(layouts[0]) };
static const uint64_t blocks[] = {8, 64, 0, 40};

static void expect_loads(const char *step, const struct layout *layout, const char *saved_as)
{
    struct ds_error err = {0};

    for (unsigned r = 0; r < layout->world; r++) {
        struct held held;
        struct ds_ckpt_state state;

        held_init(&held, layout, r, false);
        cr_assert(ds_ckpt_load(step, &state, held.weight, held.weights, held.moment, held.moments,
                               &err) == 0,
                  "%s as kind %d, rank %u of %u: %s", saved_as, layout->kind, r, layout->world,
                  err.text);
        cr_assert(held_is_right(&held), "%s as kind %d, rank %u of %u", saved_as, layout->kind, r,
                  layout->world);
        cr_assert(state.step == 9 && ds_ckpt_scalar(&state, "loss_scale", 0.0) == 65536.0);
        held_release(&held);
    }
}

/* Bytes of tensors in the files of a checkpoint; the manifest's checks see that none is twice. */
static uint64_t data_bytes(const char *step)
{
    struct ds_manifest m;
    uint64_t bytes = 0;

    cr_assert(ds_manifest_load(&m, at(step, "manifest.json"), NULL) == 0);
    for (size_t i = 0; i < m.files; i++)
        bytes += m.file[i].bytes - m.file[i].header_bytes;
    ds_manifest_release(&m);
    return bytes;
}

Test(layout, every_layout_loads_every_other)
{
    for (size_t i = 0; i < LAYOUTS; i++) {
        char name[64];
        struct path run, step;
        struct ds_error err = {0};
        int rc[MAX_WORLD];

        (void)snprintf(name, sizeof(name), "run-%zu", i);
        run = held(name);
        step = held(at(name, "checkpoints/step-00000009"));
        save_layout(run.text, &layouts[i], blocks[i % 4], rc, &err);
        for (unsigned r = 0; r < layouts[i].world; r++)
            cr_assert(rc[r] == 0, "%s rank %u: %d %s", name, r, rc[r], err.text);
        cr_assert(data_bytes(step.text) == 4 * global_elems() * 3, "%s", name);
        cr_assert(ds_ckpt_verify(step.text, &err) == 0, "%s: %s", name, err.text);
        for (size_t j = 0; j < LAYOUTS; j++)
            expect_loads(step.text, &layouts[j], name);
        if (i % 3 != 0)
            continue;
        make_old(step.text);
        cr_assert(ds_ckpt_verify(step.text, &err) == 0, "%s: %s", name, err.text);
        for (size_t j = 0; j < LAYOUTS; j++)
            expect_loads(step.text, &layouts[j], "version 1");
    }
}

/* No rank writes much more than its share, wherever the large tensors are. */
Test(layout, the_ranks_write_equal_parts)
{
    for (size_t i = 0; i < LAYOUTS; i++) {
        uint64_t most = 0, total = 0;

        if (layouts[i].kind == OWNERS)
            continue;
        for (unsigned r = 0; r < layouts[i].world; r++) {
            uint64_t bytes = share_bytes(&layouts[i], r, 8);

            total += bytes;
            most = bytes > most ? bytes : most;
        }
        cr_assert(total == 4 * global_elems() * 3);
        cr_assert(most <= total / layouts[i].world + 160, "layout %zu: %ju of %ju", i,
                  (uintmax_t)most, (uintmax_t)total);
    }
}

/* --- what is no checkpoint ------------------------------------------------------------------ */

static void expect_refused(void (*spoil)(struct held *held, unsigned rank), const char *says)
{
    const struct layout layout = {SLICES, 3, 3};
    struct path run = held("run"), first = held("run/checkpoints/step-00000009");
    struct ds_error err = {0};
    int rc[MAX_WORLD];

    spoil_held = NULL;
    save_layout(run.text, &layout, 0, rc, &err);
    cr_assert(rc[0] == 0, "%s", err.text);
    spoil_held = spoil;
    save_layout(run.text, &layout, 0, rc, &err);
    spoil_held = NULL;
    cr_assert(rc[0] < 0);
    cr_assert(strstr(err.text, says) != NULL, "'%s' not in '%s'", says, err.text);
    cr_assert(ds_ckpt_verify(first.text, &err) == 0, "%s", err.text);
    expect_loads(first.text, &layout, "the one before");
}

static void leave_out(struct held *held, unsigned rank)
{
    if (rank == 1)
        held->weight[2].count--;
}

static void give_twice(struct held *held, unsigned rank)
{
    if (rank == 1)
        held->weight[2].first--;
}

static void other_shape(struct held *held, unsigned rank)
{
    if (rank == 1)
        held->weight[2].shape[0] *= 2;
}

static void beyond(struct held *held, unsigned rank)
{
    if (rank == 0)
        held->weight[1].count = 1000000;
}

static void no_such_replica(struct held *held, unsigned rank)
{
    held->weight[0].replicas = 4;
    held->weight[0].replica = rank;
}

Test(layout, what_is_not_the_whole_is_no_checkpoint)
{
    expect_refused(leave_out, "no rank gave elements");
    expect_refused(give_twice, "were given twice");
    expect_refused(other_shape, "another shape or type");
    expect_refused(beyond, "has no elements");
    expect_refused(no_such_replica, "cannot be replica");
}

/* --- damage --------------------------------------------------------------------------------- */

/* Any flipped bit of a sharded checkpoint is found by verify and by those ranks that read it. */
static void expect_found(const char *step, const struct layout *reader)
{
    struct ds_manifest m;
    unsigned found = 0, flips = 0;

    cr_assert(ds_manifest_load(&m, at(step, "manifest.json"), NULL) == 0);
    for (size_t f = 0; f < m.files; f++) {
        struct path path;
        struct ds_buf bytes;

        (void)snprintf(path.text, sizeof(path.text), "%s", at(step, m.file[f].name));
        bytes = slurp(path.text);
        for (size_t b = 0; b < bytes.len; b += 29, flips++) {
            struct ds_error err = {0};
            bool seen = false;

            bytes.data[b] = (char)(bytes.data[b] ^ (1 << b % 8));
            spill(path.text, bytes.data, bytes.len);
            cr_assert(ds_ckpt_verify(step, &err) == -EBADMSG);
            cr_assert(strstr(err.text, m.file[f].name) != NULL, "%s", err.text);
            for (unsigned r = 0; r < reader->world && !seen; r++) {
                struct held held;
                struct ds_ckpt_state state;

                held_init(&held, reader, r, false);
                seen = ds_ckpt_load(step, &state, held.weight, held.weights, held.moment,
                                    held.moments, NULL) == -EBADMSG;
                held_release(&held);
            }
            found += seen;
            bytes.data[b] = (char)(bytes.data[b] ^ (1 << b % 8));
        }
        spill(path.text, bytes.data, bytes.len);
        ds_buf_release(&bytes);
    }
    ds_manifest_release(&m);
    cr_assert(found == flips && flips > 300, "%u of %u", found, flips);
}

Test(layout, a_flipped_bit_is_found_by_whoever_reads_it)
{
    const struct layout saved = {SLICES, 4, 2}, reader = {SLICES, 3, 3};
    struct path run = held("run"), step = held("run/checkpoints/step-00000009");
    int rc[MAX_WORLD];

    save_layout(run.text, &saved, 16, rc, NULL);
    cr_assert(rc[0] == 0);
    expect_found(step.text, &reader);
    make_old(step.text);
    expect_found(step.text, &reader);
}

/* A manifest of one part in the place of the whole one. */
Test(layout, a_part_is_no_checkpoint)
{
    const struct layout layout = {SLICES, 2, 2};
    struct path run = held("run"), step = held("run/checkpoints/step-00000009");
    struct ds_ckpt_state state;
    struct ds_manifest m;
    struct ds_error err = {0};
    struct ds_buf text;
    int rc[MAX_WORLD];

    save_layout(run.text, &layout, 0, rc, NULL);
    cr_assert(rc[0] == 0 && ds_manifest_load(&m, at(step.text, "manifest.json"), NULL) == 0);
    m.part = true;
    ds_buf_init(&text, 1 << 20);
    cr_assert(ds_manifest_write(&m, &text, NULL) == 0);
    spill(at(step.text, "manifest.json"), text.data, text.len);
    cr_assert(ds_ckpt_peek(step.text, &state, &err) == -EBADMSG);
    cr_assert(strstr(err.text, "of one part") != NULL, "%s", err.text);
    ds_buf_release(&text);
    ds_manifest_release(&m);
}

/* --- diff ----------------------------------------------------------------------------------- */

static void change_one(struct held *held, unsigned rank)
{
    float *data = held->weight[2].data;

    if (rank == 1)
        data[7] += 1.0f;
}

Test(layout, two_layouts_of_the_same_numbers_do_not_differ)
{
    const struct layout slices = {SLICES, 3, 3}, owners = {OWNERS, 6, 2};
    struct path a = held("a"), b = held("b"), c = held("c");
    struct path in_a = held("a/checkpoints/step-00000009");
    struct path in_b = held("b/checkpoints/step-00000009");
    struct path in_c = held("c/checkpoints/step-00000009");
    struct ds_ckpt_diff diff;
    struct ds_error err = {0};
    int rc[MAX_WORLD];

    save_layout(a.text, &slices, 24, rc, NULL);
    save_layout(b.text, &owners, 0, rc, NULL);
    spoil_held = change_one;
    save_layout(c.text, &slices, 0, rc, NULL);
    spoil_held = NULL;
    cr_assert(ds_ckpt_diff(in_a.text, in_b.text, &diff, &err) == 0, "%s", err.text);
    cr_assert(diff.compared == 3 * (size_t)GLOBALS && diff.count == 0);
    ds_ckpt_diff_release(&diff);
    make_old(in_b.text);
    cr_assert(ds_ckpt_diff(in_b.text, in_c.text, &diff, &err) == 0, "%s", err.text);
    cr_assert(diff.count == 1 && strcmp(diff.entry[0].name, globals[2].name) == 0);
    cr_assert(diff.entry[0].elems == 1 && diff.entry[0].largest == 1.0);
    ds_ckpt_diff_release(&diff);
}

enum { LARGE = (2 << 20) + (1 << 18) }; /* elements: more than a piece of 8 MiB */

static void save_large(const char *run, float last, uint64_t block_bytes)
{
    struct ds_ckpt_save_args args = save_args(run, &(struct set){0}, 9);
    struct ds_ckpt_tensor large;

    init_tensor(&large, "", "large", LARGE, 0, 0.0f);
    ((float *)large.data)[LARGE - 1] += last;
    args.weights = &large;
    args.n_weights = 1;
    args.n_moments = 0;
    args.block_bytes = block_bytes;
    cr_assert(ds_ckpt_save(&args, NULL) == 0);
    free(large.data);
}

Test(layout, a_tensor_larger_than_a_piece_is_compared_to_its_end)
{
    struct path a = held("a"), b = held("b");
    struct path in_a = held("a/checkpoints/step-00000009");
    struct path in_b = held("b/checkpoints/step-00000009");
    struct path file = held("a/checkpoints/step-00000009/weights-00001-of-00001.safetensors");
    struct ds_ckpt_diff diff;
    struct ds_error err = {0};
    struct ds_buf bytes;

    save_large(a.text, 0.0f, 40);
    save_large(b.text, 0.0f, 0);
    cr_assert(ds_ckpt_diff(in_a.text, in_b.text, &diff, &err) == 0, "%s", err.text);
    cr_assert(diff.count == 0);
    ds_ckpt_diff_release(&diff);
    save_large(b.text, 2.0f, 3 << 20);
    cr_assert(ds_ckpt_diff(in_a.text, in_b.text, &diff, &err) == 0, "%s", err.text);
    cr_assert(diff.count == 1 && diff.entry[0].elems == 1 && diff.entry[0].largest == 2.0);
    ds_ckpt_diff_release(&diff);
    bytes = slurp(file.text);
    bytes.data[bytes.len - 1] ^= 1;
    spill(file.text, bytes.data, bytes.len);
    ds_buf_release(&bytes);
    cr_assert(ds_ckpt_diff(in_a.text, in_b.text, &diff, &err) == -EBADMSG);
    cr_assert(strstr(err.text, "weights-00001-of-00001") != NULL, "%s", err.text);
}
