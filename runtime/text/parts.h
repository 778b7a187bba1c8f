/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * parts.h - what a tokenizer is made of; for the files of this folder.
 */
#ifndef DS_RUNTIME_TEXT_PARTS_H
#define DS_RUNTIME_TEXT_PARTS_H

#include <jansson.h>

#include "runtime/text/added.h"
#include "runtime/text/pattern.h"
#include "runtime/text/tokenizer.h"

enum { DS__MAX_STEPS = 16, DS__MAX_TEXT = 256, DS__MAX_PIECE = 16 * 1024 * 1024 };

enum ds__normal_kind { DS__NORMAL_PREPEND, DS__NORMAL_REPLACE, DS__NORMAL_NFC };

struct ds__normal {
    enum ds__normal_kind kind;
    char from[DS__MAX_TEXT + 1]; /* replace */
    char to[DS__MAX_TEXT + 1];   /* replace, prepend */
};

/* What the first pre-tokenizer does to a text before it is split. */
enum ds__prefix {
    DS__PREFIX_NONE,
    DS__PREFIX_SPACE,    /* a blank in front where there is none */
    DS__PREFIX_METASPACE /* blanks become `mark`, and one in front as `scheme` says */
};
enum ds__scheme { DS__SCHEME_ALWAYS, DS__SCHEME_FIRST, DS__SCHEME_NEVER };

enum ds__behavior {
    DS__ISOLATED,
    DS__REMOVED,
    DS__CONTIGUOUS,
    DS__MERGED_WITH_PREVIOUS,
    DS__MERGED_WITH_NEXT
};

struct ds__stage {
    struct ds_pattern *pattern;
    enum ds__behavior behavior;
    bool invert; /* what does not match counts as the match */
};

struct ds__decoder {
    bool bytes;    /* characters of the alphabet are bytes */
    bool fallback; /* <0x41> is a byte */
    char from[8], to[8];
    char strip[8]; /* taken off in front, once */
};

struct ds_tokenizer {
    struct ds_vocab vocab;               /* the model's tokens, then the added ones */
    struct ds_added_set raw, normalized; /* found before and after the normalizer */
    bool *is_added;                      /* of each id */
    struct ds__normal normal[DS__MAX_STEPS];
    size_t normals;
    enum ds__prefix prefix;
    enum ds__scheme scheme;
    char mark[8]; /* of metaspace */
    struct ds__stage stage[DS__MAX_STEPS];
    size_t stages;
    struct ds__decoder decoder;
    bool byte_level;
    bool byte_fallback, fuse_unk, ignore_merges;
    uint32_t unk;           /* or DS_NO_TOKEN */
    uint32_t byte_id[256];  /* byte_level, byte_fallback */
    uint32_t ascii_id[128]; /* of characters, else */
    bool newline_apart;     /* a newline merges with nothing */
    bool cuts;
};

/* --- reading (tokenizer.c, read_model.c, read_parts.c) --------------------------------------- */

/* Every key of `object` is one of `keys` ("a b c"); else -ENOTSUP. */
int ds__read_only(const json_t *object, const char *what, const char *keys, struct ds_error *err)
    DS_NODISCARD;
/* A text of up to `most` bytes into `out`; -EBADMSG, or -ENOTSUP where it is longer. */
int ds__read_text(const json_t *object, const char *key, char *out, size_t most,
                  struct ds_error *err) DS_NODISCARD;
/* true or false; `otherwise` where the key is missing or null. */
int ds__read_bool(const json_t *object, const char *key, bool otherwise, bool *out,
                  struct ds_error *err) DS_NODISCARD;

int ds__read_model(struct ds_tokenizer *t, const json_t *model, const json_t *added,
                   struct ds_error *err) DS_NODISCARD;
int ds__read_normalizer(struct ds_tokenizer *t, const json_t *what, struct ds_error *err)
    DS_NODISCARD;
int ds__read_pre_tokenizer(struct ds_tokenizer *t, const json_t *what, struct ds_error *err)
    DS_NODISCARD;
int ds__read_decoder(struct ds_tokenizer *t, const json_t *what, struct ds_error *err) DS_NODISCARD;
int ds__read_post_processor(const json_t *what, struct ds_error *err) DS_NODISCARD;

/* --- the alphabet of bytes (alphabet.c) ------------------------------------------------------ */

/* The character that stands for a byte, as UTF-8 with a NUL; its bytes, 1 or 2. */
size_t ds__alphabet_text(unsigned char byte, char out[3]);
/* The byte that a character stands for; -1: none. */
int ds__alphabet_byte(uint32_t character);

/* --- normalizing (normal.c) ------------------------------------------------------------------ */

/* Append the normal form of `text`; `begins`: prepend what is to be.  `scratch` is overwritten. */
void ds__normalize(const struct ds_tokenizer *t, const char *text, size_t len, bool begins,
                   struct ds_buf *scratch, struct ds_buf *out);

/* --- merging (bpe.c) ------------------------------------------------------------------------- */

struct ds__symbol {
    uint32_t id;            /* DS_NO_TOKEN: merged into the one before */
    uint32_t before, after; /* DS_NO_TOKEN: none */
};
struct ds__candidate {
    uint32_t rank, at, id;
};
struct ds__bpe { /* a zeroed one is empty */
    struct ds__symbol *symbol;
    size_t count, cap;
    struct ds__candidate *heap;
    size_t candidates, heap_cap;
};

int ds__bpe_add(struct ds__bpe *bpe, uint32_t id) DS_NODISCARD; /* -ENOMEM */
/* Merge the symbols that were added, append what they became to `ids`, and forget them. */
int ds__bpe_merge(struct ds__bpe *bpe, const struct ds_vocab *vocab, struct ds_ids *ids)
    DS_NODISCARD;
void ds__bpe_release(struct ds__bpe *bpe);

/* --- encoding (encode.c, piece.c) ------------------------------------------------------------ */

enum { DS__CACHE_SLOTS = 1 << 15, DS__CACHE_BYTES = 30, DS__CACHE_IDS = 6 };

struct ds__cached { /* a piece, and what it became */
    uint64_t hash;
    uint8_t len, count; /* len 0: free */
    char bytes[DS__CACHE_BYTES];
    uint32_t id[DS__CACHE_IDS];
};

struct ds_encoder {
    const struct ds_tokenizer *t;
    struct ds_matcher *matcher;
    struct ds__cached *cache;
    struct ds__bpe bpe;
    struct ds_buf normal, scratch, prefixed;
    struct ds_ids *ids; /* of the call that runs */
    struct ds_error *err;
    uint64_t dropped;
};

/* The ids of one piece. */
int ds__encode_piece(struct ds_encoder *e, const char *piece, size_t len) DS_NODISCARD;

#endif
