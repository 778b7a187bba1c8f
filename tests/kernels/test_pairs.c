/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_pairs.c - the order of the pairs whose experts are here, and rows in that order and back.
 *
 * What is wanted of the order is worked out expert by expert, of rows in double.  What lies behind
 * the last sorted row is no number where it must not be read, and stays where it must not be
 * written.
 */
#include "tests/kernels/harness.h"

/* Experts that rows have: any, none of those here, only those here, what a rank that is wrong may
 * say. */
enum chosen { ANY, ELSEWHERE, HERE, HOSTILE };

struct pairs {
    size_t rows, each, experts, first, held, sorted, count;
    uint32_t *chosen, *source, *place, *offset;
};

static uint32_t any_number(void)
{
    static uint64_t state = 1;

    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33);
}

static uint32_t wrong_expert(const struct pairs *p)
{
    const uint32_t last = (uint32_t)(p->first + p->held - 1);
    const uint32_t numbers[] = {last,        last + 1,    (uint32_t)p->experts, DS_NO_ROW,
                                0x80000000u, last + 512u, (uint32_t)p->first,   last};

    return numbers[any_number() % 8];
}

static bool may_have(const struct pairs *p, enum chosen kind, size_t e)
{
    bool here = e >= p->first && e < p->first + p->held;

    return kind == ANY || (kind == HERE) == here;
}

/* Experts of a row differ. */
static void choose(const struct pairs *p, enum chosen kind, uint32_t *chosen)
{
    bool taken[DS_MAX_EXPERTS] = {false};

    for (size_t j = 0; j < p->each; j++) {
        uint32_t e = any_number() % (uint32_t)p->experts;

        while (taken[e] || !may_have(p, kind, e))
            e = (e + 1) % (uint32_t)p->experts;
        taken[e] = true;
        chosen[j] = e;
    }
}

static void want_order(struct pairs *p)
{
    size_t pairs = p->rows * p->each;
    uint32_t at = 0;

    for (size_t i = 0; i < pairs; i++)
        p->place[i] = DS_NO_ROW;
    for (size_t e = 0; e < p->held; e++) {
        p->offset[e] = at;
        for (size_t i = 0; i < pairs; i++) {
            if (p->chosen[i] == p->first + e && at < p->sorted) {
                p->source[at] = (uint32_t)i;
                p->place[i] = at++;
            }
        }
    }
    p->offset[p->held] = at;
    p->count = at;
}

/* `n` numbers that no array of them holds, with one behind the last that must stay. */
static uint32_t *blank(size_t n)
{
    uint32_t *x = malloc((n + 1) * sizeof(*x));

    memset(x, 0xa5, (n + 1) * sizeof(*x));
    return x;
}

static const struct {
    size_t rows, each, experts, first, held, sorted;
    enum chosen kind;
} shapes[] = {{1, 1, 1, 0, 1, 1, ANY},         {5, 2, 4, 0, 4, 10, ANY},
              {33, 2, 8, 4, 4, 66, ANY},       {9, 4, 6, 5, 1, 9, ANY},
              {7, 2, 8, 2, 3, 14, ELSEWHERE},  {20, 3, 9, 6, 3, 60, HERE},
              {40, 3, 8, 2, 4, 30, HOSTILE},   {6, 2, 8, 0, 8, 40, ANY},
              {300, 1, 5, 3, 2, 300, ANY},     {140, 16, 256, 192, 64, 2240, ANY},
              {1000, 6, 64, 0, 16, 6000, ANY}, {600, 4, 256, 0, 256, 700, HOSTILE}};

#ifdef DS_TESTS_FEW
enum { SHAPES = 8 };
#else
enum { SHAPES = sizeof(shapes) / sizeof(shapes[0]) };
#endif

static struct pairs pairs_of(size_t i)
{
    struct pairs p = {.rows = shapes[i].rows,
                      .each = shapes[i].each,
                      .experts = shapes[i].experts,
                      .first = shapes[i].first,
                      .held = shapes[i].held,
                      .sorted = shapes[i].sorted};
    size_t pairs = p.rows * p.each;

    p.chosen = blank(pairs);
    p.source = blank(p.sorted);
    p.place = blank(pairs);
    p.offset = blank(p.held + 1);
    for (size_t n = 0; n < pairs; n += p.each) {
        if (shapes[i].kind != HOSTILE)
            choose(&p, shapes[i].kind, p.chosen + n);
        for (size_t j = 0; shapes[i].kind == HOSTILE && j < p.each; j++)
            p.chosen[n + j] = wrong_expert(&p);
    }
    want_order(&p);
    return p;
}

static void drop_pairs(struct pairs *p)
{
    free(p->chosen);
    free(p->source);
    free(p->place);
    free(p->offset);
}

/* --- the order -------------------------------------------------------------------------------- */

static void check_numbers(const char *what, uint32_t *got, const uint32_t *want, size_t n)
{
    for (size_t i = 0; i <= n; i++)
        cr_assert(got[i] == want[i], "%s %zu of %zu is %u, not %u", what, i, n, got[i], want[i]);
    free(got);
}

static int run_sort(void *ctx, void **out, struct ds_stream *stream, struct ds_error *err)
{
    const struct pairs *p = ctx;
    const struct ds_sort_pairs_args args = {.rows = p->rows,
                                            .each = p->each,
                                            .experts = p->experts,
                                            .first = p->first,
                                            .held = p->held,
                                            .sorted = p->sorted,
                                            .chosen = p->chosen,
                                            .source = blank(p->sorted),
                                            .place = blank(p->rows * p->each),
                                            .offset = blank(p->held + 1)};
    int rc = ds_sort_pairs(&args, stream, err);

    cr_assert(rc == 0, "%s", ds_error_text(err, rc));
    check_numbers("source", args.source, p->source, p->sorted);
    check_numbers("place", args.place, p->place, p->rows * p->each);
    check_numbers("offset", args.offset, p->offset, p->held + 1);
    *(float *)out[0] = 1.0f;
    return rc;
}

Test(pairs, order)
{
    const double want = 1.0;

    for (size_t i = 0; i < SHAPES; i++) {
        struct pairs p = pairs_of(i);
        struct trial t = {.what = "sort_pairs",
                          .out = {{DS_F32, 1, &want, NULL}},
                          .outs = 1,
                          .run = run_sort,
                          .ctx = &p};

        cr_assert((shapes[i].kind == ELSEWHERE) == (p.count == 0));
        cr_assert(shapes[i].kind != HERE || p.count == p.rows * p.each);
        cr_assert(shapes[i].kind != HOSTILE || p.count == p.sorted);
        try_all(&t);
        drop_pairs(&p);
    }
}

/* --- rows to it and back ---------------------------------------------------------------------- */

struct moved {
    struct pairs p;
    size_t channels;
    enum ds_dtype act;
    struct nums x, before;
    bool parts; /* no place */
    enum how { NO_RESIDUAL, RESIDUAL, IN_PLACE } how;
};

/* Of a count that is more than there is room for as many as there is room. */
static int run_take(void *ctx, void **out, struct ds_stream *stream, struct ds_error *err)
{
    struct moved *m = ctx;
    uint32_t *count = malloc(sizeof(*count)); /* where any device reaches it */
    const struct ds_rows_take_args args = {.rows = m->p.rows,
                                           .each = m->p.each,
                                           .channels = m->channels,
                                           .sorted = m->p.sorted,
                                           .act = m->act,
                                           .source = m->p.source,
                                           .count = count,
                                           .x = m->x.data,
                                           .y = out[0]};
    int rc;

    *count = m->p.count < m->p.sorted ? (uint32_t)m->p.count : DS_NO_ROW;
    rc = ds_rows_take(&args, stream, err);
    free(count);
    return rc;
}

static int run_sum(void *ctx, void **out, struct ds_stream *stream, struct ds_error *err)
{
    struct moved *m = ctx;
    const struct ds_rows_sum_args args = {.rows = m->p.rows,
                                          .each = m->p.each,
                                          .channels = m->channels,
                                          .sorted = m->p.sorted,
                                          .act = m->act,
                                          .place = m->parts ? NULL : m->p.place,
                                          .x = m->x.data,
                                          .residual = m->how == NO_RESIDUAL ? NULL
                                                      : m->how == RESIDUAL  ? m->before.data
                                                                            : out[0],
                                          .y = out[0]};

    return ds_rows_sum(&args, stream, err);
}

static void check_take(struct moved *m)
{
    size_t n = m->p.sorted * m->channels;
    double *want = calloc(n, sizeof(*want));
    struct trial t = {.what = "rows_take",
                      .out = {{m->act, n, want, &m->before}},
                      .outs = 1,
                      .run = run_take,
                      .ctx = m,
                      .bf16 = 1e-12}; /* copies */

    m->x = nums_random(m->act, m->p.rows * m->channels, 1.0, 0.0);
    m->before = nums_random(m->act, n, 1.0, 0.0);
    for (size_t i = 0; i < n; i++) {
        size_t r = i / m->channels, c = i % m->channels;

        want[i] =
            r < m->p.count ? m->x.d[m->p.source[r] / m->p.each * m->channels + c] : m->before.d[i];
    }
    try_all(&t);
    nums_free(&m->x);
    nums_free(&m->before);
    free(want);
}

/* Of the row that a summand is of; SIZE_MAX of one that is none. */
static size_t row_of(const struct moved *m, size_t from)
{
    if (m->parts)
        return from % m->p.rows;
    return from < m->p.count ? m->p.source[from] / m->p.each : SIZE_MAX;
}

static void check_sum(struct moved *m)
{
    size_t n = m->p.rows * m->channels, all = m->parts ? m->p.rows * m->p.each : m->p.sorted;
    double *want = calloc(n, sizeof(*want));
    struct trial t = {.what = m->parts ? "rows_sum of parts" : "rows_sum",
                      .out = {{m->act, n, want, m->how == IN_PLACE ? &m->before : NULL}},
                      .outs = 1,
                      .run = run_sum,
                      .ctx = m,
                      .f32 = 1e-6,
                      .bf16 = m->act == DS_BF16 ? 3e-3 : 4e-4}; /* rounded once */

    m->x = nums_random(m->act, all * m->channels, 1.0, 0.0);
    m->before = nums_random(m->act, n, 1.0, 0.0);
    for (size_t i = 0; i < all * m->channels; i++) {
        size_t row = row_of(m, i / m->channels);

        if (row == SIZE_MAX)
            nums_set(&m->x, i, (double)NAN);
        else
            want[row * m->channels + i % m->channels] += m->x.d[i];
    }
    for (size_t i = 0; m->how != NO_RESIDUAL && i < n; i++)
        want[i] += m->before.d[i];
    try_all(&t);
    nums_free(&m->x);
    nums_free(&m->before);
    free(want);
}

Test(pairs, rows)
{
    static const size_t channels[] = {1, 7, 64, 97, 130};

    for (size_t i = 0; i < SHAPES; i++) {
        for (size_t type = 0; type < 3; type++) {
            struct moved m = {
                .p = pairs_of(i), .channels = channels[i % 5], .act = act_types[type]};

            check_take(&m);
            for (int how = NO_RESIDUAL; how <= IN_PLACE; how++) {
                m.how = (enum how)how;
                check_sum(&m);
            }
            drop_pairs(&m.p);
        }
    }
}

/* Ranks may be more than a row has experts. */
Test(pairs, parts_of_ranks)
{
    static const struct {
        size_t rows, ranks, channels;
    } sizes[] = {{1, 1, 1}, {5, 2, 7}, {3, 33, 64}, {40, 4, 97}, {2, 70, 16}};

    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        for (size_t type = 0; type < 3; type++) {
            struct moved m = {.p = {.rows = sizes[i].rows, .each = sizes[i].ranks},
                              .channels = sizes[i].channels,
                              .act = act_types[type],
                              .parts = true};

            for (int how = NO_RESIDUAL; how <= IN_PLACE; how++) {
                m.how = (enum how)how;
                check_sum(&m);
            }
        }
    }
}
