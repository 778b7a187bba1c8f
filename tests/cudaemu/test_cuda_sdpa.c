/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * Attention by cuDNN, on a stand-in that computes what the graphs say, by the tests of the CPU's;
 * in parts where there is little memory; then what is not taken, and what happens when it refuses.
 */
#define DS_TESTS_CUDNN 1
#include "tests/cudaemu/emulated.h"

#include "tests/kernels/test_attention.c"

/* Each case is run forward and backward, and on three orders of threads or one. */
static void check_taken(size_t batch, size_t seq, size_t kv_heads, size_t group, size_t size,
                        enum ds_dtype act)
{
    unsigned runs = fake_cudnn.runs;

    check(batch, seq, kv_heads, group, size, act, 1.0);
    cr_assert(fake_cudnn.runs >= runs + 2 * TRIALS, "%u runs", fake_cudnn.runs - runs);
    cr_assert(fake_cudnn.live == 0, "%d", fake_cudnn.live);
}

Test(cuda_sdpa, lengths_heads_and_types)
{
    static const size_t seqs[] = {2, 17, 64, 100}, sizes[] = {8, 64, 72, 128};

    for (size_t i = 0; i < 4; i++) {
        for (size_t j = 0; j < 4; j++)
            check_taken(1 + i % 2, seqs[i], 1 + (i + j) % 2, 1 + j % 3, sizes[j],
                        (i + j) % 2 == 0 ? DS_BF16 : DS_F16);
    }
    check(1, 70, 1, 2, 64, DS_BF16, 5.0);
    check(1, 40, 2, 1, 128, DS_F16, 5.0);
}

/* --- parts, refusals ---------------------------------------------------------------------------*/

enum { BATCH = 6, SEQ = 16, HEADS = 8, KV = 4, SIZE = 16 };
enum { ROW = (HEADS + 2 * KV) * SIZE, TOKENS = BATCH * SEQ, SCRATCH = 1 << 20 };

struct layer {
    struct ds_cuda_stream stream;
    struct ds_attention_fwd_args f;
    struct ds_attention_bwd_args b;
    _Alignas(16) uint16_t qkv[TOKENS * ROW], dqkv[TOKENS * ROW];
    _Alignas(16) uint16_t out[TOKENS * HEADS * SIZE], dout[TOKENS * HEADS * SIZE];
    _Alignas(16) float lse[BATCH * HEADS * SEQ];
    _Alignas(16) char scratch[SCRATCH];
};

static struct layer *make_layer(void)
{
    struct layer *l = aligned_alloc(16, sizeof(*l));
    uint64_t state = 1;

    cr_assert(l != NULL);
    l->stream = (struct ds_cuda_stream){
        .base = emulated_stream(), .scratch = l->scratch, .scratch_bytes = SCRATCH};
    for (size_t i = 0; i < TOKENS * ROW; i++)
        l->qkv[i] = ds_bf16_from_f32((float)noise(&state));
    for (size_t i = 0; i < TOKENS * HEADS * SIZE; i++)
        l->dout[i] = ds_bf16_from_f32((float)noise(&state));
    memset(l->out, 0xff, sizeof(l->out));
    memset(l->dqkv, 0xff, sizeof(l->dqkv));
    l->f = (struct ds_attention_fwd_args){.batch = BATCH,
                                          .seq = SEQ,
                                          .heads = HEADS,
                                          .kv_heads = KV,
                                          .head_size = SIZE,
                                          .act = DS_BF16,
                                          .scale = 0.25f,
                                          .qkv = l->qkv,
                                          .out = l->out,
                                          .lse = l->lse};
    l->b = (struct ds_attention_bwd_args){.batch = BATCH,
                                          .seq = SEQ,
                                          .heads = HEADS,
                                          .kv_heads = KV,
                                          .head_size = SIZE,
                                          .act = DS_BF16,
                                          .scale = 0.25f,
                                          .qkv = l->qkv,
                                          .out = l->out,
                                          .dout = l->dout,
                                          .lse = l->lse,
                                          .dqkv = l->dqkv};
    return l;
}

/* Where tests are one process, none finds what another one has asked of the double. */
static void new_cudnn(void)
{
    fake_cudnn = (struct fake_cudnn){0};
}

TestSuite(cuda_sdpa, .init = new_cudnn);

static int begin(struct layer *l, int capability, bool must, struct ds_error *err)
{
    const struct ds_cuda_sdpa_args args = {
        .cudnn = &fake_cudnn_calls, .stream = l, .capability = capability, .must = must};

    l->stream.capability = capability;
    return ds__cuda_sdpa_open(&l->stream.sdpa, &args, err);
}

static int both_passes(struct layer *l, struct ds_error *err)
{
    int rc = ds_attention_fwd(&l->f, &l->stream.base, err);

    return rc == 0 ? ds_attention_bwd(&l->b, &l->stream.base, err) : rc;
}

static void end(struct layer *l)
{
    ds__cuda_sdpa_close(l->stream.sdpa);
    free(l);
    cr_assert(fake_cudnn.live == 0, "%d", fake_cudnn.live);
}

/* The same numbers whatever the parts: a head and a sequence of their own do not depend on others. */
Test(cuda_sdpa, in_parts_where_memory_is_short)
{
    /* Backward a key/value head takes 2 * 64 * (64 * 2 + 4 + 16 * 4) bytes, as if it had 64 keys; 24
     * of them 588 KiB. */
    static const struct {
        size_t scratch;
        unsigned runs;
    } tries[] = {{SCRATCH, 1 + 1},   {512 << 10, 1 + 2}, {256 << 10, 1 + 3},
                 {150 << 10, 1 + 6}, {80 << 10, 1 + 12}, {40 << 10, 1 + 24}};
    struct layer *whole = make_layer();

    cr_assert(begin(whole, 80, true, NULL) == 0 && both_passes(whole, NULL) == 0);
    for (size_t i = 0; i < sizeof(tries) / sizeof(tries[0]); i++) {
        struct layer *l = make_layer();
        struct ds_error err = {0};

        l->stream.scratch_bytes = tries[i].scratch;
        fake_cudnn.runs = fake_cudnn.plans = 0;
        cr_assert(begin(l, 80, true, NULL) == 0 && both_passes(l, &err) == 0, "%s", err.text);
        cr_assert(fake_cudnn.runs == tries[i].runs, "%zu: %u runs", i, fake_cudnn.runs);
        cr_assert(fake_cudnn.plans == 2, "%zu: %u plans", i, fake_cudnn.plans);
        cr_assert(memcmp(l->out, whole->out, sizeof(l->out)) == 0);
        cr_assert(memcmp(l->lse, whole->lse, sizeof(l->lse)) == 0);
        cr_assert(memcmp(l->dqkv, whole->dqkv, sizeof(l->dqkv)) == 0);
        cr_assert(both_passes(l, &err) == 0 && fake_cudnn.plans == 2, "planned twice");
        ds__cuda_sdpa_close(l->stream.sdpa);
        free(l);
    }
    end(whole);
}

/* Plans that need more than was guessed are made anew for smaller parts, until nothing is left. */
Test(cuda_sdpa, a_guess_that_was_too_low)
{
    struct layer *l = make_layer();
    struct ds_error err = {0};

    fake_cudnn.more = 9000;
    l->stream.scratch_bytes = 150 << 10;
    cr_assert(begin(l, 80, true, NULL) == 0 && both_passes(l, &err) == 0, "%s", err.text);
    cr_assert(fake_cudnn.runs == 3 + 12 && fake_cudnn.plans == 4, "%u runs, %u plans",
              fake_cudnn.runs, fake_cudnn.plans);
    ds__cuda_sdpa_close(l->stream.sdpa);
    fake_cudnn.more = 80 << 10;
    cr_assert(begin(l, 80, true, NULL) == 0 && both_passes(l, &err) == -ENOTSUP);
    cr_assert(strstr(err.text, "needs") != NULL && strstr(err.text, "has 153600") != NULL, "%s",
              err.text);
    end(l);
}

/* Not taken: our own kernels do it, and a word is said of it once; with `must` it is an error. */
static void not_taken(struct layer *l, int capability, const char *why, bool said)
{
    struct ds_error err = {0};
    const char *note;

    fake_cudnn.runs = 0;
    l->stream.scratch_bytes = SCRATCH;
    cr_assert(begin(l, capability, false, NULL) == 0 && ds__cuda_sdpa_note(l->stream.sdpa) == NULL);
    cr_assert(both_passes(l, &err) == 0, "%s", err.text);
    note = ds__cuda_sdpa_note(l->stream.sdpa);
    cr_assert(said ? note != NULL && strstr(note, why) != NULL : note == NULL, "%s", note);
    cr_assert(ds__cuda_sdpa_note(l->stream.sdpa) == NULL, "once");
    cr_assert(both_passes(l, &err) == 0);
    ds__cuda_sdpa_close(l->stream.sdpa);
    cr_assert(begin(l, capability, true, NULL) == 0 && both_passes(l, &err) == -ENOTSUP);
    cr_assert(strstr(err.text, why) != NULL, "%s", err.text);
    ds__cuda_sdpa_close(l->stream.sdpa);
    l->stream.sdpa = NULL;
}

Test(cuda_sdpa, what_is_not_taken)
{
    static const uint32_t low[TOKENS];
    struct layer *l = make_layer();

    l->f.batch = l->b.batch = 1;
    l->f.drop.rate = l->b.drop.rate = 0.5;
    not_taken(l, 80, "dropout", false);
    l->f.drop.rate = l->b.drop.rate = 0.0;
    l->f.low = l->b.low = low;
    not_taken(l, 80, "keys from one on", false);
    l->f.low = l->b.low = NULL;
    l->f.seq = l->b.seq = 1;
    not_taken(l, 80, "no kernels for this size", true);
    l->f.seq = l->b.seq = SEQ;
    l->f.head_size = l->b.head_size = SIZE - 4;
    not_taken(l, 80, "no kernels for this size", true);
    l->f.head_size = l->b.head_size = SIZE;
    fake_cudnn.version = 91500;
    not_taken(l, 80, "computes this length wrongly", true);
    fake_cudnn.version = 0;
    fake_cudnn.unfit = 3;
    not_taken(l, 80, "CUDNN_STATUS_NOT_SUPPORTED, the double was told to", true);
    fake_cudnn.unfit = 0;
    fake_cudnn.wavering = 3;
    not_taken(l, 80, "no kernels that give the same bits", true);
    cr_assert(fake_cudnn.runs == 0);
    fake_cudnn.wavering = 0;
    not_taken(l, 100, "for this GPU may give other bits", true);
    cr_assert(fake_cudnn.runs == 3, "forward is: %u", fake_cudnn.runs);
    l->f.lse = l->lse + 1;
    l->b.lse = l->f.lse;
    not_taken(l, 80, "not aligned", false);
    end(l);
}

/* What one pass of cuDNN's wrote our own kernels can read, and the other way round. */
static void forward_only(int capability)
{
    struct layer *l = make_layer(), *own = make_layer();
    double error = 0.0, norm = 0.0;

    fake_cudnn.runs = 0;
    cr_assert(begin(l, capability, false, NULL) == 0 && both_passes(l, NULL) == 0);
    cr_assert(fake_cudnn.runs == 1, "forward only");
    cr_assert(both_passes(own, NULL) == 0 && fake_cudnn.runs == 1);
    for (size_t i = 0; i < TOKENS * ROW; i++) {
        double x = (double)ds_bf16_to_f32(own->dqkv[i]), d = (double)ds_bf16_to_f32(l->dqkv[i]) - x;

        error += d * d;
        norm += x * x;
    }
    cr_assert(error <= 1e-4 * norm, "%g", sqrt(error / norm));
    free(own);
    end(l);
}

Test(cuda_sdpa, passes_of_both_kinds_go_together)
{
    forward_only(100);
}

/* Backward our kernels for Hopper are preferred and no word is lost about it; with `must` it is cuDNN
 * all the same. */
Test(cuda_sdpa, our_own_backward_on_hopper)
{
    struct layer *l = make_layer();

    forward_only(90);
    fake_cudnn.runs = 0;
    cr_assert(begin(l, 90, false, NULL) == 0 && both_passes(l, NULL) == 0);
    cr_assert(fake_cudnn.runs == 1 && ds__cuda_sdpa_note(l->stream.sdpa) == NULL);
    ds__cuda_sdpa_close(l->stream.sdpa);
    cr_assert(begin(l, 90, true, NULL) == 0 && both_passes(l, NULL) == 0);
    cr_assert(fake_cudnn.runs == 3, "%u", fake_cudnn.runs);
    end(l);
}

/* The best configuration that has a plan and does not waver. */
Test(cuda_sdpa, configurations)
{
    static const struct {
        unsigned configs, unfit, wavering, ran;
    } tries[] = {{1, 0, 0, 0}, {3, 1, 0, 1}, {3, 0, 3, 2}, {3, 1, 2, 2}, {40, 0x7fff, 0, 15}};

    for (size_t i = 0; i < sizeof(tries) / sizeof(tries[0]); i++) {
        struct layer *l = make_layer();

        fake_cudnn = (struct fake_cudnn){
            .configs = tries[i].configs, .unfit = tries[i].unfit, .wavering = tries[i].wavering};
        cr_assert(begin(l, 80, true, NULL) == 0 && both_passes(l, NULL) == 0);
        cr_assert(fake_cudnn.ran == tries[i].ran, "%zu: %u", i, fake_cudnn.ran);
        end(l);
    }
}

/* More shapes than are kept. */
Test(cuda_sdpa, many_shapes)
{
    struct layer *l = make_layer();

    cr_assert(begin(l, 80, true, NULL) == 0);
    l->f.batch = 1;
    for (size_t i = 0; i < 100; i++) {
        l->f.seq = 2 + i % 90;
        l->f.heads = l->f.kv_heads = 1;
        cr_assert(ds_attention_fwd(&l->f, &l->stream.base, NULL) == 0);
    }
    cr_assert(fake_cudnn.plans == 100, "%u", fake_cudnn.plans);
    cr_assert(ds_attention_fwd(&l->f, &l->stream.base, NULL) == 0 && fake_cudnn.plans == 100);
    end(l);
}

/* Whatever call fails: planning leaves the work to our own kernels and says so, a run is an error;
 * nothing is leaked. */
Test(cuda_sdpa, every_call_may_fail)
{
    static const int codes[][2] = {
        {DS_CUDNN_NOT_SUPPORTED, -ENOTSUP}, {DS_CUDNN_NO_MEMORY, -ENOMEM}, {5000, -EIO}};
    unsigned refusals = 0, failures = 0, starts = 0;

    for (unsigned at = 1;; at++) {
        struct layer *l = make_layer();
        struct ds_error err = {0};
        unsigned calls;
        int rc;

        fake_cudnn =
            (struct fake_cudnn){.configs = 1, .fail_at = at, .fail_with = codes[at % 3][0]};
        l->f.batch = l->b.batch = 1;
        l->f.seq = l->b.seq = 2;
        l->f.heads = l->b.heads = 2;
        l->f.kv_heads = l->b.kv_heads = 1;
        rc = begin(l, 80, false, &err);
        starts += rc != 0;
        if (rc == 0) {
            rc = both_passes(l, &err);
            refusals += ds__cuda_sdpa_note(l->stream.sdpa) != NULL;
            failures += rc != 0;
        }
        cr_assert(rc == 0 || (rc == codes[at % 3][1] && strstr(err.text, "cuDNN refused") != NULL),
                  "call %u: %d, %s", at, rc, err.text);
        calls = fake_cudnn.calls;
        end(l);
        if (calls < at)
            break;
    }
    cr_assert(starts == 2 && failures == 2 * 6 && refusals > 200, "%u %u %u", starts, failures,
              refusals);
}

Test(cuda_sdpa, the_library_is_loaded)
{
    struct ds_error err = {0};
    struct ds_cudnn cudnn;
    struct ds_cuda_sdpa *sdpa;
    const struct ds_cuda_sdpa_args args = {.cudnn = &cudnn, .capability = 80};
    const char *build = getenv("B");
    char file[512];

    snprintf(file, sizeof(file), "%s/tests/cudaemu/libfakednn.so", build != NULL ? build : "build");
    cr_assert(ds__cudnn_load(&cudnn, file, &err) == 0, "%s", err.text);
    setenv("FAKE_CUDNN_VERSION", "91001", 1);
    cr_assert(ds__cuda_sdpa_open(&sdpa, &args, &err) == -ENOTSUP);
    cr_assert(strstr(err.text, "cuDNN 9.10.1 is too old") != NULL, "%s", err.text);
    unsetenv("FAKE_CUDNN_VERSION");
    cr_assert(ds__cuda_sdpa_open(&sdpa, &args, &err) == 0);
    cr_assert(ds__cuda_sdpa_version(sdpa) == 91900);
    ds__cuda_sdpa_close(sdpa);
    ds__cuda_sdpa_close(NULL);
    ds__cudnn_unload(&cudnn);
    cr_assert(cudnn.library == NULL);
    cr_assert(ds__cudnn_load(&cudnn, "/nowhere/libcudnn.so", &err) == -ENOENT);
    cr_assert(strstr(err.text, "/nowhere") != NULL, "%s", err.text);
    cr_assert(ds__cudnn_load(&cudnn, "libm.so.6", &err) == -ENOTSUP);
    cr_assert(strstr(err.text, "cudnnCreate") != NULL && cudnn.library == NULL, "%s", err.text);
}
