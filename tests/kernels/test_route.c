/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_route.c - which experts rows are given to, and with what weights, against double.
 *
 * What is wanted of the router is worked out expert by expert; the gradient of logits is that of the
 * loss which experts.h tells of, by differences.
 */
#include "tests/kernels/harness.h"

enum logits { RANDOM, ONE_SIDED, EQUAL, FAR_UP, FAR_DOWN, NOT_NUMBERS };

/* What a router makes of logits. */
struct routed {
    size_t batch, seq, experts, each, rows, pairs;
    enum ds_dtype act;
    bool in_place;
    struct nums logits;
    uint32_t *chosen;
    double *probs, *weight, *load;
};

static bool above(double x, double y)
{
    return !isnan(x) && (isnan(y) || x > y);
}

/* One after the other the best that is left. */
static void want_chosen(struct routed *r, size_t n)
{
    const double *logits = r->logits.d + n * r->experts;
    bool taken[DS_MAX_EXPERTS] = {false};

    for (size_t j = 0; j < r->each; j++) {
        size_t best = DS_MAX_EXPERTS;

        for (size_t e = 0; e < r->experts; e++) {
            if (!taken[e] && (best == DS_MAX_EXPERTS || above(logits[e], logits[best])))
                best = e;
        }
        taken[best] = true;
        r->chosen[n * r->each + j] = (uint32_t)best;
    }
}

/* Softmax over `count` experts, those of `among` or the first ones. */
static double share(const double *logits, const uint32_t *among, size_t count, size_t e)
{
    double sum = 0.0;

    for (size_t i = 0; i < count; i++)
        sum += exp(logits[among == NULL ? i : among[i]] - logits[e]);
    return 1.0 / sum;
}

static void want_numbers(struct routed *r)
{
    for (size_t n = 0; n < r->rows; n++) {
        const double *logits = r->logits.d + n * r->experts;
        const uint32_t *chosen = r->chosen + n * r->each;

        for (size_t e = 0; e < r->experts; e++)
            r->probs[n * r->experts + e] = share(logits, NULL, r->experts, e);
        for (size_t j = 0; j < r->each; j++) {
            r->weight[n * r->each + j] = share(logits, chosen, r->each, chosen[j]);
            r->load[n / r->seq * r->experts + chosen[j]] += 1.0;
        }
    }
}

static double one_logit(enum logits kind, size_t row, size_t e, double noise)
{
    switch (kind) {
    case ONE_SIDED: return e == 2 ? 30.0 : noise;
    case EQUAL: return floor(noise * 1.5) * (e % 2 == 0 ? -1.0 : 1.0); /* both zeros, too */
    case FAR_UP: return 300.0 + noise;
    case FAR_DOWN: return noise - 300.0;
    case NOT_NUMBERS: return (row + e) % 3 != 0 ? (double)NAN : row % 2 == 0 ? -HUGE_VAL : noise;
    default: return noise;
    }
}

static struct routed route_of(size_t batch, size_t seq, size_t experts, size_t each,
                              enum logits kind)
{
    struct routed r = {.batch = batch,
                       .seq = seq,
                       .experts = experts,
                       .each = each,
                       .rows = batch * seq,
                       .pairs = batch * seq * each};

    r.logits = nums_random(DS_F32, r.rows * experts, 2.0, 0.0);
    for (size_t i = 0; i < r.rows * experts; i++)
        nums_set(&r.logits, i, one_logit(kind, i / experts, i % experts, r.logits.d[i]));
    r.chosen = malloc(r.pairs * sizeof(*r.chosen));
    r.probs = calloc(r.rows * experts, sizeof(*r.probs));
    r.weight = calloc(r.pairs, sizeof(*r.weight));
    r.load = calloc(batch * experts, sizeof(*r.load));
    for (size_t n = 0; n < r.rows; n++)
        want_chosen(&r, n);
    want_numbers(&r);
    return r;
}

static void drop_route(struct routed *r)
{
    nums_free(&r->logits);
    free(r->chosen);
    free(r->probs);
    free(r->weight);
    free(r->load);
}

static int route(const struct routed *r, struct ds_route_args args, struct ds_stream *stream,
                 struct ds_error *err)
{
    int rc;

    args.batch = r->batch;
    args.seq = r->seq;
    args.experts = r->experts;
    args.each = r->each;
    args.chosen = malloc((r->pairs + 1) * sizeof(*args.chosen)); /* one that must stay */
    memset(args.chosen, 0xa5, (r->pairs + 1) * sizeof(*args.chosen));
    rc = ds_route(&args, stream, err);
    cr_assert(rc == 0, "%s", ds_error_text(err, rc));
    for (size_t p = 0; p < r->pairs; p++)
        cr_assert(args.chosen[p] == r->chosen[p], "expert of pair %zu is %u, not %u", p,
                  args.chosen[p], r->chosen[p]);
    cr_assert(args.chosen[r->pairs] == 0xa5a5a5a5u, "written past the last pair");
    free(args.chosen);
    return rc;
}

static int run_route(void *ctx, void **out, struct ds_stream *stream, struct ds_error *err)
{
    struct routed *r = ctx;

    return route(r,
                 (struct ds_route_args){.logits = r->in_place ? out[0] : (void *)r->logits.data,
                                        .probs = out[0],
                                        .weight = out[1],
                                        .load = out[2]},
                 stream, err);
}

static void check_route(size_t batch, size_t seq, size_t experts, size_t each, enum logits kind)
{
    struct routed r = route_of(batch, seq, experts, each, kind);
    char what[96];
    struct trial t = {.what = what,
                      .out = {{DS_F32, r.rows * experts, r.probs, NULL},
                              {DS_F32, r.pairs, r.weight, NULL},
                              {DS_F32, batch * experts, r.load, NULL}},
                      .outs = 3,
                      .run = run_route,
                      .ctx = &r};

    snprintf(what, sizeof(what), "route %zux%zu, %zu of %zu, logits %d", batch, seq, each, experts,
             (int)kind);
    try_all(&t);
    r.in_place = true;
    t.out[0].before = &r.logits;
    try_all(&t);
    drop_route(&r);
}

static const struct {
    size_t batch, seq, experts, each;
} routes[] = {{1, 1, 1, 1},   {1, 1, 8, 2},    {2, 5, 4, 2},    {3, 33, 8, 2},
              {1, 9, 16, 16}, {2, 300, 5, 1},  {1, 100, 64, 6}, {2, 70, 256, 16},
              {5, 1, 3, 3},   {1, 600, 33, 4}, {2, 700, 8, 4}};

#ifdef DS_TESTS_FEW
enum { ROUTES = 6 };
#else
enum { ROUTES = sizeof(routes) / sizeof(routes[0]) };
#endif

Test(route, route)
{
    for (size_t i = 0; i < ROUTES; i++) {
        check_route(routes[i].batch, routes[i].seq, routes[i].experts, routes[i].each, RANDOM);
        check_route(routes[i].batch, routes[i].seq, routes[i].experts, routes[i].each, EQUAL);
    }
    check_route(2, 40, 7, 3, FAR_UP);
    check_route(2, 40, 7, 3, FAR_DOWN);
    check_route(2, 40, 7, 1, ONE_SIDED);
    check_route(2, 40, 7, 3, ONE_SIDED);
}

/* What is no number is below all others, and among itself in order; the numbers of its row are none
 * then, but where its experts have some. */
static int run_not_numbers(void *ctx, void **out, struct ds_stream *stream, struct ds_error *err)
{
    struct routed *r = ctx;
    struct nums probs = nums_blank(DS_F32, r->rows * r->experts);
    struct nums weight = nums_blank(DS_F32, r->pairs);
    const struct ds_route_args args = {.logits = (void *)r->logits.data,
                                       .probs = (void *)probs.data,
                                       .weight = (void *)weight.data,
                                       .load = out[0]};
    int rc = route(r, args, stream, err);

    for (size_t i = 0; i < probs.n; i++)
        cr_assert(isnan(nums_get(&probs, i)));
    for (size_t i = 0; i < weight.n; i++)
        cr_assert(isnan(r->weight[i]) ? isnan(nums_get(&weight, i))
                                      : fabs(nums_get(&weight, i) - r->weight[i]) < 1e-6,
                  "weight %zu is %g, not %g", i, nums_get(&weight, i), r->weight[i]);
    nums_free(&probs);
    nums_free(&weight);
    return rc;
}

Test(route, route_of_what_is_no_number)
{
    for (size_t each = 1; each <= 7; each += 2) {
        struct routed r = route_of(2, 15, 7, each, NOT_NUMBERS);
        struct trial t = {.what = "route of what is no number",
                          .out = {{DS_F32, 2 * 7, r.load, NULL}},
                          .outs = 1,
                          .run = run_not_numbers,
                          .ctx = &r};

        try_all(&t);
        drop_route(&r);
    }
}

struct back {
    struct routed r;
    size_t sequence;
    double balance, grad_scale;
    bool scale_is_read;
    enum ds_dtype act;
    struct nums probs, weight, dweight, load;
};

/* What the logits of row n add to the loss. */
static double loss_of(const struct back *b, size_t n, const double *logits)
{
    const struct routed *r = &b->r;
    const uint32_t *chosen = r->chosen + n * r->each;
    double loss = 0.0, balance = 0.0, sum = 0.0;

    for (size_t j = 0; j < r->each; j++)
        loss += b->dweight.d[n * r->each + j] * share(logits, chosen, r->each, chosen[j]);
    for (size_t e = 0; e < r->experts; e++) {
        double shared = b->load.d[n / r->seq * r->experts + e] / (double)(b->sequence * r->each);

        balance += shared * exp(logits[e]);
        sum += exp(logits[e]);
    }
    balance *= (double)r->experts / sum / (double)b->sequence;
    return loss + b->balance * b->grad_scale * (double)b->sequence * balance;
}

static void want_dlogits(struct back *b, double *want)
{
    const double step = 1e-4;

    for (size_t i = 0; i < b->r.rows * b->r.experts; i++) {
        size_t n = i / b->r.experts;
        double *logits = b->r.logits.d + n * b->r.experts, *x = b->r.logits.d + i, at = *x;

        *x = at + step;
        want[i] = loss_of(b, n, logits);
        *x = at - step;
        want[i] = (want[i] - loss_of(b, n, logits)) / (2.0 * step);
        *x = at;
    }
}

static struct nums nums_of(const double *from, size_t n)
{
    struct nums x = nums_blank(DS_F32, n);

    for (size_t i = 0; i < n; i++)
        nums_set(&x, i, from[i]);
    return x;
}

static int run_route_bwd(void *ctx, void **out, struct ds_stream *stream, struct ds_error *err)
{
    struct back *b = ctx;
    float *scale = malloc(sizeof(*scale)); /* where any device reaches it */
    struct ds_route_bwd_args args = {.batch = b->r.batch,
                                     .seq = b->r.seq,
                                     .sequence = b->sequence,
                                     .experts = b->r.experts,
                                     .each = b->r.each,
                                     .act = b->act,
                                     .probs = (void *)b->probs.data,
                                     .chosen = b->r.chosen,
                                     .weight = (void *)b->weight.data,
                                     .dweight = (void *)b->dweight.data,
                                     .load = (void *)b->load.data,
                                     .balance = (float)b->balance,
                                     .grad_scale = (float)b->grad_scale,
                                     .dlogits = out[0]};
    int rc;

    *scale = args.grad_scale;
    if (b->scale_is_read) {
        args.grad_scale = NAN;
        args.grad_scale_at = scale;
    }
    rc = ds_route_bwd(&args, stream, err);
    free(scale);
    return rc;
}

/* Of a part of sequences that are `parts` times as long, whose other rows were given likewise. */
static void check_route_bwd(size_t i, size_t parts, double balance, bool read, enum ds_dtype act)
{
    struct back b = {
        .r = route_of(routes[i].batch, routes[i].seq, routes[i].experts, routes[i].each, RANDOM),
        .sequence = parts * routes[i].seq,
        .balance = balance,
        .grad_scale = 3.0,
        .scale_is_read = read,
        .act = act};
    size_t n = b.r.rows * b.r.experts;
    double *want = calloc(n, sizeof(*want));
    char what[96];
    struct trial t = {
        .what = what,
        .out = {{act, n, want, NULL}},
        .outs = 1,
        .run = run_route_bwd,
        .ctx = &b,
        .f32 = 1e-4}; /* where one weight is nearly 1 its gradient is a small difference */

    for (size_t j = 0; j < b.r.batch * b.r.experts; j++)
        b.r.load[j] *= (double)parts;
    b.probs = nums_of(b.r.probs, n);
    b.weight = nums_of(b.r.weight, b.r.pairs);
    b.load = nums_of(b.r.load, b.r.batch * b.r.experts);
    b.dweight = nums_random(DS_F32, b.r.pairs, 1.0, 0.0);
    want_dlogits(&b, want);
    snprintf(what, sizeof(what), "route_bwd %zux%zu, %zu of %zu, %zu parts, balance %g %s",
             b.r.batch, b.r.seq, b.r.each, b.r.experts, parts, balance, ds_dtype_name(act));
    try_all(&t);
    nums_free(&b.probs);
    nums_free(&b.weight);
    nums_free(&b.load);
    nums_free(&b.dweight);
    drop_route(&b.r);
    free(want);
}

Test(route, route_bwd)
{
    for (size_t i = 0; i < ROUTES; i++) {
        for (size_t type = 0; type < 3; type++) {
            check_route_bwd(i, 1, 0.0, false, act_types[type]);
            check_route_bwd(i, 1 + i % 3, 0.25, type == 1, act_types[type]);
        }
    }
}

/* Sums are added to what is there. */
Test(route, load_peak)
{
    static const struct {
        size_t batch, experts;
    } sizes[] = {{1, 1}, {1, 8}, {3, 5}, {13, 33}, {70, 256}};
    enum { MOST = 70 * 256 };
    struct {
        double sum;
        float load[MOST];
    } *m = calloc(1, sizeof(*m));

    cr_assert_not_null(m);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct ds_device *device = open_cpu(NULL, 2, 1 << 16);
        const size_t experts = sizes[i].experts;
        const struct ds_load_peak_args args = {
            .batch = sizes[i].batch, .experts = experts, .load = m->load, .sum = &m->sum};
        double want = m->sum = 0.75;

        for (size_t b = 0; b < sizes[i].batch; b++) {
            double most = 0.0, all = 0.0;

            for (size_t e = 0; e < experts; e++) {
                double load = (double)((b * 7 + e * e * 13) % 29 + (e == 0 ? 1 : 0));

                m->load[b * experts + e] = (float)load;
                most = load > most ? load : most;
                all += load;
            }
            want += most / (all / (double)experts);
        }
        cr_assert(ds_load_peak(&args, ds_device_stream(device), NULL) == 0);
        cr_assert(fabs(m->sum / want - 1.0) < 1e-14, "%zu: %.17g, not %.17g", i, m->sum, want);
        ds_device_close(device);
    }
    free(m);
}
