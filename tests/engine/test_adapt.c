/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_adapt - what adapters of a product add and their gradients, against sums in F64: of one matrix
 * and of several, for all columns that are read and for those of a team's rank, with dropout and
 * without.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "base/rng.h"
#include "runtime/model/net.h"
#include "tests/plan/fixture.h"

enum { BATCH = 2, SEQ = 3, ROWS = BATCH * SEQ, RANK = 2, BLOCK = 3, FIRST = 5, SEED = 77 };
enum { IN = 32, OUT = 20, PARTS = 2, WIDTH = OUT / PARTS, ROW = PARTS * RANK };

struct numbers { /* of one product, and what is made of them */
    float x[ROWS * IN], a[ROW * IN], b[PARTS][WIDTH * RANK], y[ROWS * OUT], dy[ROWS * OUT];
    float dx[ROWS * IN], da[ROW * IN], db[PARTS][WIDTH * RANK];
};
struct wanted {
    double y[ROWS * OUT], dx[ROWS * IN], da[ROW * IN], db[PARTS][WIDTH * RANK];
};

static void fill(float *out, size_t n, unsigned by)
{
    for (size_t i = 0; i < n; i++)
        out[i] = (float)((i * 37 + by * 11) % 101) / 50.0f - 1.0f;
}

/* What element `column` of a row of `whole` is multiplied by. */
static double kept(double rate, size_t row, size_t whole, size_t column)
{
    const uint64_t e = (FIRST * SEQ + row) * whole + column;
    const uint64_t stream = (UINT64_C(0x6c6f7261) << 32) + BLOCK * 4 + DS_PRODUCT_DOWN;
    const uint32_t ctr[4] = {(uint32_t)(e / 4), (uint32_t)(e / 4 >> 32), (uint32_t)stream,
                             (uint32_t)(stream >> 32)};
    const uint32_t key[2] = {SEED, 0};
    uint32_t word[4];

    ds_philox(ctr, key, word);
    return (double)word[e % 4] < floor(rate * 4294967296.0) ? 0.0 : 1.0 / (1.0 - rate);
}

static void want(const struct numbers *n, const struct ds_adapters *a, double rate, size_t whole,
                 size_t first, struct wanted *w)
{
    memset(w, 0, sizeof(*w));
    for (size_t i = 0; i < ROWS * OUT; i++)
        w->y[i] = (double)n->y[i];
    for (size_t i = 0; i < ROWS * a->in; i++)
        w->dx[i] = (double)n->dx[i];
    for (size_t r = 0; r < ROWS; r++)
        for (size_t k = 0; k < a->parts * RANK; k++) {
            const size_t part = k / RANK, at = k % RANK;
            double u = 0.0, du = 0.0;

            for (size_t c = 0; c < a->in; c++)
                u += a->scale * kept(rate, r, whole, first + c) * (double)n->x[r * a->in + c] *
                     (double)n->a[k * a->in + c];
            for (size_t o = 0; o < WIDTH; o++) {
                const double dy = (double)n->dy[r * OUT + part * WIDTH + o];
                const double b = (double)n->b[part][o * RANK + at];

                w->y[r * OUT + part * WIDTH + o] += u * b;
                w->db[part][o * RANK + at] += dy * u;
                du += a->scale * dy * b;
            }
            for (size_t c = 0; c < a->in; c++) {
                const double share = kept(rate, r, whole, first + c);

                w->da[k * a->in + c] += du * share * (double)n->x[r * a->in + c];
                w->dx[r * a->in + c] += du * share * (double)n->a[k * a->in + c];
            }
        }
}

static void near(const float *got, const double *wanted, size_t n, const char *what)
{
    for (size_t i = 0; i < n; i++)
        cr_assert(fabs((double)got[i] - wanted[i]) < 1e-4 * (1.0 + fabs(wanted[i])),
                  "%s: element %zu is %g, not %g", what, i, (double)got[i], wanted[i]);
}

static struct ds_adapters adapters_of(struct numbers *n, unsigned parts, size_t in)
{
    static float kept_rows[ROWS * ROW], room[2 * ROWS * ROW];
    struct ds_adapters a = {.parts = parts,
                            .block = BLOCK,
                            .product = DS_PRODUCT_DOWN,
                            .rows = ROWS,
                            .rank = RANK,
                            .in = in,
                            .out = OUT,
                            .a = n->a,
                            .da = n->da,
                            .kept = kept_rows,
                            .sums = room,
                            .drows = room + ROWS * ROW,
                            .scale = 1.5};

    for (unsigned i = 0; i < parts; i++) {
        a.part[i].b = n->b[i];
        a.part[i].db = n->db[i];
        a.part[i].at = i * WIDTH;
        a.part[i].width = WIDTH;
    }
    return a;
}

static struct numbers numbers_of(void)
{
    struct numbers n;

    memset(&n, 0, sizeof(n));
    fill(n.x, ROWS * IN, 1);
    fill(n.a, ROW * IN, 2);
    fill(n.b[0], WIDTH * RANK, 3);
    fill(n.b[1], WIDTH * RANK, 4);
    fill(n.y, ROWS * OUT, 5);
    fill(n.dy, ROWS * OUT, 6);
    fill(n.dx, ROWS * IN, 7);
    return n;
}

/* The rank of this place in a team of so many. */
static void check(struct ds_stream *stream, unsigned parts, double rate, unsigned ranks,
                  unsigned place)
{
    static float left[ROWS * IN];
    const struct ds_plan plan = {
        .model = test_gpt2(1, 8, 1, 3, 5), .tensor_ranks = ranks, .tensor_rank = place};
    const size_t whole = plan.model.ffn, in = whole / ranks;
    struct numbers n = numbers_of();
    struct ds_adapters a = adapters_of(&n, parts, in);
    struct ds_net net = {.plan = &plan,
                         .shape = plan.model,
                         .stream = stream,
                         .act = DS_F32,
                         .batch = BATCH,
                         .seq = SEQ,
                         .tokens = ROWS,
                         .seed = SEED,
                         .first = FIRST};
    struct wanted w;

    cr_assert_eq(whole, IN);
    net.shape.lora.dropout = rate;
    a.left = rate > 0.0 ? left : NULL;
    want(&n, &a, rate, whole, place * in, &w);
    cr_assert_eq(ds__adapters_fwd(&net, &a, n.x, n.y, NULL), 0);
    cr_assert_eq(ds__adapters_bwd(&net, &a, n.x, n.dy, n.dx, false, NULL), 0);
    near(n.y, w.y, ROWS * OUT, "y");
    near(n.dx, w.dx, ROWS * in, "dx");
    near(n.da, w.da, parts * RANK * in, "dA");
    for (unsigned i = 0; i < parts; i++)
        near(n.db[i], w.db[i], WIDTH * RANK, "dB");
}

Test(adapt, sums_and_gradients_are_those_of_f64)
{
    static const double rates[] = {0.0, 0.25, 0.9};
    const struct ds_device_args args = {.name = "cpu", .threads = 1, .scratch_bytes = 1 << 20};
    struct ds_device *device = NULL;

    cr_assert_eq(ds_device_open(&device, &args, NULL), 0);
    for (unsigned i = 0; i < sizeof(rates) / sizeof(rates[0]); i++)
        for (unsigned parts = 1; parts <= PARTS; parts++)
            for (unsigned ranks = 1; ranks <= 4; ranks *= 2)
                for (unsigned place = 0; place < ranks; place++)
                    check(ds_device_stream(device), parts, rates[i], ranks, place);
    ds_device_close(device);
}
