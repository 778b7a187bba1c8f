/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * request.h - what dsrun asks of the worker that generates, and what it hears from it.
 *
 * On the worker's standard input: u32 length, and so many bytes of text that can be read in a log:
 *
 *     dsrun-generate 1
 *     ckpt /abs/path               a checkpoint's folder
 *     cuda 0
 *     ...                          the other numbers of the struct, one a line
 *     prompt 72 101 108            ids, at least one; a line for each prompt
 *
 * Samples are numbered from 0 on, `count` of the first prompt, then those of the next one.
 *
 * Then, at any time, numbers of samples that are enough as they are, u32 each: the worker ends
 * these.  DS_GENERATE_GO_ON answers STEP.  The end of the input ends the worker.
 *
 * On its standard output: events of DS_GENERATE_EVENT_BYTES.
 *
 *     LOADED    number: bytes of parameters that a token reads
 *     PROMPT    value: its ids; number: ns that reading them took
 *     TOKEN     value: an id; number: of the sample
 *     END       value: enum ds_generate_end; number: of the sample
 *     STEP      of a batch: there is a token more, or an end, of each; is any enough?
 *     DONE      number: ns that all took behind LOADED, without prompts
 *
 * After LOADED comes PROMPT for each prompt, before its samples: TOKEN any number of times, END.
 * Those of as many samples as `batch` come by turns; then the worker waits at each STEP, so that
 * which samples are read together depends on no clock.  Numbers are little endian.
 *
 * Errors  EPROTO malformed
 * Tests   tests/plan/test_request.c, tests/fuzz/fuzz_generate.c
 */
#ifndef DS_RUNTIME_GENERATE_REQUEST_H
#define DS_RUNTIME_GENERATE_REQUEST_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/error.h"
#include "base/limits.h"

/* What a sample ends for; STOP: it is enough. */
/* clang-format off */
#define DS_GENERATE_ENDS(X) \
    X(TOKENS,  "max-tokens") \
    X(CONTEXT, "context") \
    X(TEXT,    "end-of-text") \
    X(STOP,    "stop")
/* clang-format on */
enum ds_generate_end {
#define X(id, name) DS_END_##id,
    DS_GENERATE_ENDS(X)
#undef X
        DS_END_COUNT
};

#define DS_NO_END         UINT32_MAX /* no id ends a text */
#define DS_GENERATE_GO_ON UINT32_MAX
enum {
    DS_MAX_SAMPLES = 1000000, /* of all prompts */
    DS_MAX_GENERATE_BATCH = 256,
    DS_MAX_REQUEST_BYTES = 1 << 28,
    DS_GENERATE_EVENT_BYTES = 16
};

struct ds_generate_prompt {
    int32_t *ids; /* owned */
    size_t count;
};

struct ds_generate_request {
    char ckpt[DS_MAX_PATH];
    uint64_t cuda;       /* 1: on the first GPU; 0: on the CPU */
    uint64_t type;       /* enum ds_dtype: F32, BF16 or F16 */
    uint64_t threads;    /* 0: the cores of the process */
    uint64_t max_tokens; /* of a sample, >= 1 */
    uint64_t top_k, seed;
    uint64_t count; /* samples of each prompt, >= 1 */
    uint64_t batch; /* samples at once, >= 1 */
    uint64_t ids;   /* only those below may be given */
    uint64_t end;   /* the id that ends a text, or DS_NO_END */
    double temperature, top_p;
    struct ds_generate_prompt *prompt; /* owned, [prompts] */
    size_t prompts;
};

void ds_generate_request_release(struct ds_generate_request *request);
/* Room for one more prompt of `count` ids, which are the caller's to write; NULL: no memory. */
int32_t *ds_generate_request_add(struct ds_generate_request *request, size_t count);
int ds_generate_request_write(const struct ds_generate_request *request, struct ds_buf *out,
                              struct ds_error *err) DS_NODISCARD;
/* On failure there is nothing to release.  ENOMEM, too. */
int ds_generate_request_parse(struct ds_generate_request *request, const char *text, size_t len,
                              struct ds_error *err) DS_NODISCARD;

struct ds_generate_event {
    enum ds_generate_event_kind {
        DS_GENERATED_LOADED,
        DS_GENERATED_PROMPT,
        DS_GENERATED_TOKEN,
        DS_GENERATED_END,
        DS_GENERATED_STEP,
        DS_GENERATED_DONE,
        DS_GENERATED_KINDS
    } kind;
    uint32_t value;
    uint64_t number;
};
void ds_generate_event_write(struct ds_generate_event event,
                             unsigned char out[DS_GENERATE_EVENT_BYTES]);
int ds_generate_event_read(struct ds_generate_event *event,
                           const unsigned char bytes[DS_GENERATE_EVENT_BYTES], struct ds_error *err)
    DS_NODISCARD;

#endif
