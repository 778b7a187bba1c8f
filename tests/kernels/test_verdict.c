/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_verdict.c - what a step came to on a rank, what becomes of it on all of them, and what does as
 * it says: updates and the loss.
 */
#include "tests/kernels/harness.h"

enum { MOST_PARTS = 700, MOST_RANKS = 300, SUMS = 5, N = 1000, LINES = 4 };

/* What operations read and write, where any device reaches it. */
struct memory {
    double loss, peaks;
    struct ds_part part[MOST_PARTS];
    struct ds_entry entry[MOST_RANKS];
    struct ds_verdict verdict[2];
    double sums[2]; /* of squares, of LAMB's second pass */
    double row[MOST_RANKS * SUMS];
    float factor[DS_LOSS_FACTORS];
    float line[LINES][N]; /* p, g and two states */
    uint16_t low[N];
    float logits[2 * N], losses[2];
    int32_t targets[2];
};

static struct memory *new_memory(void)
{
    struct memory *m = calloc(1, sizeof(*m));

    cr_assert_not_null(m);
    return m;
}

static struct ds_device *device_of(unsigned threads)
{
    return open_cpu(NULL, threads, ds_scratch_bytes(&(struct ds_scratch_query){0}));
}

/* --- one rank ---------------------------------------------------------------------------------- */

static void fill_parts(struct memory *m, size_t parts, uint64_t *state)
{
    m->loss = noise(state) + 5.0;
    m->peaks = noise(state) + 9.0;
    for (size_t i = 0; i < parts; i++) {
        bool bad = i % 7 == 3;

        m->part[i] = (struct ds_part){.squares = fabs(noise(state)),
                                      .nonfinite = bad ? i : 0,
                                      .place = bad ? 1000000 - 3 * i : DS_NOWHERE};
    }
}

static void check_tally(size_t parts, size_t own, unsigned threads)
{
    struct ds_device *device = device_of(threads);
    struct memory *m = new_memory();
    uint64_t state = parts + 1;
    struct ds_tally_args args = {.parts = parts,
                                 .own = own,
                                 .loss = &m->loss,
                                 .peaks = &m->peaks,
                                 .part = m->part,
                                 .hash = 0x123456789abcdef0,
                                 .stop = parts % 2 == 0,
                                 .writing = parts % 3 == 0,
                                 .entry = &m->entry[1]};
    struct ds_entry want = {.place = {DS_NOWHERE, DS_NOWHERE},
                            .hash = args.hash,
                            .stop = args.stop,
                            .writing = args.writing};

    fill_parts(m, parts, &state);
    memset(m->entry, 0xa5, sizeof(m->entry));
    want.loss = m->loss;
    want.peaks = m->peaks;
    for (size_t i = 0; i < parts; i++) { /* one after the other */
        uint64_t *place = &want.place[i < own ? 0 : 1];

        want.squares += m->part[i].squares;
        want.nonfinite += (double)m->part[i].nonfinite;
        if (m->part[i].place < *place)
            *place = m->part[i].place;
    }
    cr_assert(ds_tally(&args, ds_device_stream(device), NULL) == 0);
    cr_assert(memcmp(&m->entry[1], &want, sizeof(want)) == 0, "%zu parts, %zu own", parts, own);
    cr_assert(m->entry[0].stop == 0xa5a5a5a5 && m->entry[2].stop == 0xa5a5a5a5);
    ds_device_close(device);
    free(m);
}

Test(verdict, a_rank_is_its_parts_in_order)
{
    static const size_t parts[] = {0, 1, 2, 8, 255, 256, 257, MOST_PARTS};

    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        check_tally(parts[i], parts[i], 1);
        check_tally(parts[i], parts[i] / 2, 2);
        check_tally(parts[i], 0, 3);
    }
}

/* --- all ranks --------------------------------------------------------------------------------- */

/* Split at the largest power of two below their number, as runtime/comm/tree.h says. */
static struct ds_entry tree(const struct ds_entry *entry, size_t count)
{
    size_t left = 1;
    struct ds_entry a, b;

    if (count == 1)
        return entry[0];
    while (2 * left < count)
        left *= 2;
    a = tree(entry, left);
    b = tree(entry + left, count - left);
    a.squares += b.squares;
    a.loss += b.loss;
    a.peaks += b.peaks;
    a.nonfinite += b.nonfinite;
    for (unsigned i = 0; i < DS_PLACES; i++)
        a.place[i] = b.place[i] < a.place[i] ? b.place[i] : a.place[i];
    a.stop |= b.stop;
    a.writing |= b.writing;
    a.differs |= b.differs || a.hash != b.hash;
    return a;
}

struct all_ranks {
    size_t ranks;
    bool bad, lost, behind, stop, differ; /* lost: the loss is not finite */
    double targets, clip;
    struct ds_scale_rule rule;
};

static void fill_entries(struct memory *m, const struct all_ranks *c)
{
    uint64_t state = c->ranks;

    for (size_t i = 0; i < c->ranks; i++)
        m->entry[i] = (struct ds_entry){.squares = fabs(noise(&state)) + 0.1,
                                        .loss = fabs(noise(&state)),
                                        .peaks = fabs(noise(&state)),
                                        .place = {DS_NOWHERE, i == 2 ? 77 : DS_NOWHERE},
                                        .hash = 99,
                                        .writing = i == 1};
    if (c->bad) {
        m->entry[c->ranks - 1].nonfinite = 3.0;
        m->entry[c->ranks - 1].place[0] = 12345;
    }
    if (c->lost)
        m->entry[c->ranks / 2].loss = (double)INFINITY;
    m->entry[c->ranks - 1].stop = c->stop;
    if (c->differ)
        m->entry[c->ranks - 1].hash = 98;
    m->verdict[0] = (struct ds_verdict){
        .skip = c->behind,
        .scale = {.factor = 1024.0, .iteration = 9, .hysteresis = 1, .last_overflow = 4}};
}

static void check_verdict(const struct all_ranks *c, unsigned threads)
{
    struct ds_device *device = device_of(threads);
    struct memory *m = new_memory();
    const struct ds_verdict_args args = {.ranks = c->ranks,
                                         .entry = m->entry,
                                         .before = &m->verdict[0],
                                         .size = {640.0, c->targets},
                                         .clip = c->clip,
                                         .rule = c->rule,
                                         .verdict = &m->verdict[1],
                                         .loss_factor = c->bad ? NULL : m->factor};
    const struct ds_verdict *got = &m->verdict[1];
    struct ds_entry all;
    double norm, scale = 1.0;
    bool bad = c->bad || (c->lost && c->targets > 0.0) || (c->differ && c->ranks > 1);
    bool skip = bad || !(c->targets > 0.0);

    fill_entries(m, c);
    all = tree(m->entry, c->ranks);
    norm = sqrt(all.squares) / 1024.0;
    if (c->clip > 0.0 && c->clip / (norm + 1e-6) < 1.0)
        scale = c->clip / (norm + 1e-6);
    memset(&m->verdict[1], 0xff, sizeof(m->verdict[1]));
    cr_assert(ds_verdict(&args, ds_device_stream(device), NULL) == 0);
    cr_assert(memcmp(&got->all, &all, sizeof(all)) == 0, "%zu ranks", c->ranks);
    cr_assert(got->skip == skip && got->behind == c->behind, "%zu ranks", c->ranks);
    cr_assert(bad ? isnan(got->grad_norm) : got->grad_norm == norm, "%zu ranks: %.17g for %.17g",
              c->ranks, got->grad_norm, norm);
    cr_assert(got->grad_scale == (float)(scale / 1024.0), "%zu ranks", c->ranks);
    if (c->targets > 0.0)
        cr_assert(c->lost ? isinf(got->loss) : got->loss == all.loss / c->targets);
    else
        cr_assert(got->loss == 0.0, "nothing is a target");
    cr_assert(got->all.stop == c->stop && got->all.differs == (c->differ && c->ranks > 1));
    cr_assert(got->scale.iteration == 10);
    /* 9 - 4 - 1 calm steps, twice the window; of a step without targets the scale knows nothing */
    cr_assert(got->scale.factor == (!c->rule.dynamic ? 1024.0
                                    : bad            ? 512.0
                                                     : 2048.0),
              "%g", got->scale.factor);
    cr_assert(got->loss_factor == (float)(got->scale.factor / 640.0));
    for (int i = 0; i < DS_LOSS_FACTORS; i++)
        cr_assert(m->factor[i] == (c->bad ? 0.0f : got->loss_factor));
    ds_device_close(device);
    free(m);
}

Test(verdict, all_ranks_are_added_along_the_tree)
{
    static const size_t ranks[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 31, 64, 127, MOST_RANKS};
    static const double targets[] = {640.0, 1.0, 0.0, 333.0};

    for (size_t i = 0; i < sizeof(ranks) / sizeof(ranks[0]); i++)
        for (unsigned k = 0; k < 8; k++) {
            const struct all_ranks c = {
                .ranks = ranks[i],
                .bad = k == 1 || k == 6,
                .lost = k == 2,
                .behind = k % 2 == 1,
                .stop = k == 3,
                .differ = k == 4,
                .targets = targets[(i + k) % 4],
                .clip = k < 4    ? 1e-4
                        : k == 5 ? 1e9
                                 : 0.0,
                .rule = {.dynamic = k >= 5, .least = 1.0, .window = 2, .hysteresis = 1}};

            check_verdict(&c, k % 3 + 1);
        }
}

Test(verdict, targets_are_tokens)
{
    static const double targets[] = {-1.0, 641.0, (double)NAN, (double)INFINITY};
    struct ds_device *device = device_of(1);
    struct memory *m = new_memory();
    struct ds_verdict_args args = {.ranks = 1,
                                   .entry = m->entry,
                                   .before = &m->verdict[0],
                                   .verdict = &m->verdict[1],
                                   .size = {640.0, 640.0}};

    cr_assert(ds_verdict(&args, ds_device_stream(device), NULL) == 0);
    for (size_t i = 0; i < sizeof(targets) / sizeof(targets[0]); i++) {
        args.size.targets = targets[i];
        cr_assert(ds_verdict(&args, ds_device_stream(device), NULL) == -EINVAL, "%g", targets[i]);
    }
    ds_device_close(device);
    free(m);
}

/* Rows of numbers of all ranks, of which each column is a sum by itself. */
static void check_rank_sum(size_t ranks, size_t n, unsigned threads)
{
    struct ds_device *device = device_of(threads);
    struct memory *m = new_memory();
    const struct ds_rank_sum_args args = {.ranks = ranks, .n = n, .x = m->row};
    uint64_t state = ranks + n;
    double want[SUMS];

    for (size_t i = 0; i < MOST_RANKS * SUMS; i++)
        m->row[i] = fabs(noise(&state)) + 1e-3;
    for (size_t k = 0; k < n; k++) {
        for (size_t i = 0; i < ranks; i++)
            m->entry[i] = (struct ds_entry){.squares = m->row[i * n + k]};
        want[k] = tree(m->entry, ranks).squares;
    }
    cr_assert(ds_rank_sum(&args, ds_device_stream(device), NULL) == 0);
    cr_assert(memcmp(m->row, want, n * sizeof(*want)) == 0, "%zu ranks, %zu sums", ranks, n);
    cr_assert(ds_rank_sum(&(struct ds_rank_sum_args){.n = 1, .x = m->row}, ds_device_stream(device),
                          NULL) == -EINVAL);
    ds_device_close(device);
    free(m);
}

Test(verdict, sums_of_ranks_are_added_along_the_tree)
{
    static const size_t ranks[] = {1, 2, 3, 4, 7, 8, 33, MOST_RANKS};

    for (size_t i = 0; i < sizeof(ranks) / sizeof(ranks[0]); i++) {
        check_rank_sum(ranks[i], SUMS, 1);
        check_rank_sum(ranks[i], 1, 2);
    }
}

/* --- who reads it ------------------------------------------------------------------------------ */

enum { ADAMW, SGD, NESTEROV, LION, ADAGRAD, LAMB_MOMENTS, LAMB, MUON_MOMENTS, MUON, UPDATERS };

struct turn { /* of an optimizer */
    const struct ds_verdict *verdict;
    double grad_scale;
    uint64_t t;
    struct ds_stream *stream;
};

/* Whose second pass is LAMB's and Muon's. */
#define SHARED                                                                                     \
    .n = N, .p = m->line[0], .low_type = DS_BF16, .p_low = m->low, .lr = 0.01,                     \
    .weight_decay = 0.1, .verdict = turn->verdict
#define ONE_PASS SHARED, .grad = m->line[1], .grad_scale = turn->grad_scale
#define BIASES                                                                                     \
    .bias1 = 1.0 - pow(0.9, (double)turn->t), .bias2 = 1.0 - pow(0.95, (double)turn->t),           \
    .behind_bias1 = 1.0 - pow(0.9, (double)(turn->t - 1)),                                         \
    .behind_bias2 = 1.0 - pow(0.95, (double)(turn->t - 1))

static int two_passes(unsigned which, struct memory *m, const struct turn *turn)
{
    const struct ds_lamb_moments_args first = {
        .n = N,
        .p = m->line[0],
        .m = m->line[2],
        .v = m->line[3],
        .grad = m->line[1],
        .beta1 = 0.9,
        .beta2 = 0.95,
        .eps = 1e-6,
        .weight_decay = 0.1,
        .grad_scale = turn->grad_scale,
        .p_sumsq = &m->sums[0],
        .u_sumsq = &m->sums[1],
        .verdict = turn->verdict,
        BIASES,
    };
    const struct ds_lamb_args second = {
        SHARED,      .m = m->line[2],        .v = m->line[3],
        .eps = 1e-6, .p_sumsq = &m->sums[0], .u_sumsq = &m->sums[1],
        BIASES,
    };
    const struct ds_muon_moments_args moments = {
        .n = N,
        .m = m->line[2],
        .u = m->line[0],
        .grad = m->line[1],
        .momentum = 0.95,
        .grad_scale = turn->grad_scale,
        .nesterov = true,
        .verdict = turn->verdict,
    };
    const struct ds_muon_args muon = {SHARED, .x = m->line[1], .step = 0.02};

    switch (which) {
    case LAMB_MOMENTS: return ds_lamb_moments(&first, turn->stream, NULL);
    case LAMB: return ds_lamb(&second, turn->stream, NULL);
    case MUON_MOMENTS: return ds_muon_moments(&moments, turn->stream, NULL);
    default: return ds_muon(&muon, turn->stream, NULL);
    }
}

static int update(unsigned which, struct memory *m, const struct turn *turn)
{
    float *s0 = m->line[2], *s1 = m->line[3];
    const struct ds_adamw_args adamw = {ONE_PASS,      .m = s0,     .v = s1, .beta1 = 0.9,
                                        .beta2 = 0.95, .eps = 1e-8, BIASES};
    const struct ds_sgd_args sgd = {ONE_PASS};
    const struct ds_sgd_args nesterov = {ONE_PASS, .m = s0, .momentum = 0.9, .nesterov = true};
    const struct ds_lion_args lion = {ONE_PASS, .m = s0, .beta1 = 0.9, .beta2 = 0.99};
    const struct ds_adagrad_args adagrad = {ONE_PASS, .v = s1, .eps = 1e-8};

    switch (which) {
    case ADAMW: return ds_adamw(&adamw, turn->stream, NULL);
    case SGD: return ds_sgd(&sgd, turn->stream, NULL);
    case NESTEROV: return ds_sgd(&nesterov, turn->stream, NULL);
    case LION: return ds_lion(&lion, turn->stream, NULL);
    case ADAGRAD: return ds_adagrad(&adagrad, turn->stream, NULL);
    default: return two_passes(which, m, turn);
    }
}

static void fill_lines(struct memory *m)
{
    uint64_t state = 5;

    for (unsigned i = 0; i < LINES; i++)
        for (unsigned k = 0; k < N; k++)
            m->line[i][k] = (float)(i == 3 ? fabs(noise(&state)) : noise(&state));
    memset(m->low, 0x5a, sizeof(m->low));
    m->sums[0] = 4.0;
    m->sums[1] = 9.0;
}

/* By a verdict to the bits that numbers give, and not at all where it says so. */
static void check_update(unsigned which, unsigned threads)
{
    static const float factor = 0.37f;
    struct ds_device *device = device_of(threads);
    struct ds_stream *stream = ds_device_stream(device);
    struct memory *by_number = new_memory(), *by_verdict = new_memory();

    for (unsigned k = 0; k < 4; k++) {
        bool skip = k / 2 == 1, behind = k % 2 == 1;
        struct ds_verdict *verdict = &by_verdict->verdict[0];

        fill_lines(by_number);
        fill_lines(by_verdict);
        *verdict = (struct ds_verdict){.skip = skip, .behind = behind, .grad_scale = factor};
        if (!skip)
            cr_assert(update(which, by_number,
                             &(struct turn){NULL, (double)factor, behind ? 6 : 7, stream}) == 0);
        cr_assert(update(which, by_verdict, &(struct turn){verdict, 1e30, 7, stream}) == 0);
        cr_assert(memcmp(by_number->line, by_verdict->line, sizeof(by_number->line)) == 0,
                  "optimizer %u, %u", which, k);
        cr_assert(memcmp(by_number->low, by_verdict->low, sizeof(by_number->low)) == 0,
                  "optimizer %u, %u", which, k);
        for (unsigned i = 0; i < 2; i++) /* of nothing that is updated there is no norm */
            cr_assert(by_verdict->sums[i] ==
                          (which == LAMB_MOMENTS && skip ? 0.0 : by_number->sums[i]),
                      "optimizer %u, %u", which, k);
    }
    ds_device_close(device);
    free(by_number);
    free(by_verdict);
}

Test(verdict, updates_do_as_it_says)
{
    for (unsigned which = 0; which < UPDATERS; which++)
        check_update(which, which % 3 + 1);
}

static void loss_of(struct memory *m, const float *at, float scale, size_t ld, struct ds_stream *s)
{
    uint64_t state = 8;
    const struct ds_xent_args args = {.rows = 2,
                                      .vocab = 501,
                                      .logits = m->logits,
                                      .ld = ld,
                                      .targets = m->targets,
                                      .losses = m->losses,
                                      .dlogits = m->logits,
                                      .dld = ld,
                                      .grad_scale = scale,
                                      .grad_scale_at = at};

    for (unsigned i = 0; i < 2 * N; i++)
        m->logits[i] = (float)noise(&state);
    m->targets[1] = 500;
    cr_assert(ds_xent(&args, s, NULL) == 0);
}

/* Rows of whole words and others are two kernels of a device. */
Test(verdict, a_loss_reads_its_factor)
{
    for (size_t ld = 503; ld < 505; ld++) {
        struct ds_device *device = device_of(2);
        struct memory *want = new_memory(), *got = new_memory();

        got->factor[0] = 0.125f;
        loss_of(want, NULL, 0.125f, ld, ds_device_stream(device));
        loss_of(got, got->factor, 0.0f, ld, ds_device_stream(device));
        cr_assert(memcmp(want->logits, got->logits, sizeof(want->logits)) == 0, "ld %zu", ld);
        cr_assert(want->logits[3] != 0.0f);
        ds_device_close(device);
        free(want);
        free(got);
    }
}
