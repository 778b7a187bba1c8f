/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * read_parts.c - normalizer, pre-tokenizer, post-processor and decoder of a tokenizer.json.
 *
 * Each kind has a table of the types that are read; a Sequence has them one after the other.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "runtime/text/parts.h"

struct type {
    const char *name;
    int (*read)(struct ds_tokenizer *t, const json_t *what, struct ds_error *err);
};

/* A part of a tokenizer: one of some types, or a Sequence of them in `list`. */
struct part {
    const char *noun, *list;
    struct type types[8]; /* ends with a row without a name */
};

/* "Sequence, Prepend and NFC" */
static int refuse(const struct part *part, const char *name, struct ds_error *err)
{
    const struct type *type = part->types;
    char names[160] = "Sequence";

    for (; type->name != NULL; type++) {
        size_t len = strlen(names);

        (void)snprintf(names + len, sizeof(names) - len, "%s%s",
                       type[1].name == NULL ? " and " : ", ", type->name);
    }
    return ds_fail(err, ENOTSUP, "%s '%.100s' is not supported, only %s", part->noun, name, names);
}

/* Read `what` by its type. */
static int read_one(struct ds_tokenizer *t, const json_t *what, const struct part *part,
                    struct ds_error *err)
{
    const char *name = json_string_value(json_object_get(what, "type"));

    if (name == NULL)
        return ds_fail(err, EBADMSG, "a %s has no 'type'", part->noun);
    for (const struct type *type = part->types; type->name != NULL; type++)
        if (strcmp(type->name, name) == 0)
            return ds_error_context(err, type->read(t, what, err), "%s %s", part->noun, name);
    return refuse(part, name, err);
}

/* The same, or all of a Sequence, which holds no other. */
static int read_part(struct ds_tokenizer *t, const json_t *what, const struct part *part,
                     struct ds_error *err)
{
    const char *name = json_string_value(json_object_get(what, "type"));
    const json_t *one;
    char keys[32];
    size_t i;
    int rc;

    if (name == NULL || strcmp(name, "Sequence") != 0)
        return read_one(t, what, part, err);
    (void)snprintf(keys, sizeof(keys), "type %s", part->list);
    rc = ds__read_only(what, "it", keys, err);
    json_array_foreach(json_object_get(what, part->list), i, one)
    {
        if (rc == 0)
            rc = read_one(t, one, part, err);
    }
    return ds_error_context(err, rc, "%s Sequence", part->noun);
}

/* {"String": TEXT} or {"Regex": TEXT} */
static const char *read_pattern(const json_t *what, bool *literal)
{
    const json_t *pattern = json_object_get(what, "pattern");
    const char *text = json_string_value(json_object_get(pattern, "String"));

    *literal = text != NULL;
    return text != NULL ? text : json_string_value(json_object_get(pattern, "Regex"));
}

/* A String and what it becomes. */
static int read_replace(const json_t *what, char *from, char *to, size_t most, struct ds_error *err)
{
    bool literal;
    const char *text = read_pattern(what, &literal);
    int rc = ds__read_only(what, "it", "type pattern content", err);

    if (rc != 0)
        return rc;
    if (text == NULL || !literal || text[0] == '\0' || strlen(text) > most)
        return ds_fail(err, ENOTSUP, "only a 'String' of 1 to %zu bytes is supported as 'pattern'",
                       most);
    memcpy(from, text, strlen(text) + 1);
    return ds__read_text(what, "content", to, most, err);
}

/* --- normalizers ----------------------------------------------------------------------------- */

static int add_normal(struct ds_tokenizer *t, const struct ds__normal *step, struct ds_error *err)
{
    if (t->normals == DS__MAX_STEPS)
        return ds_fail(err, ENOTSUP, "more than %d are not supported", DS__MAX_STEPS);
    t->normal[t->normals++] = *step;
    return 0;
}

static int read_prepend(struct ds_tokenizer *t, const json_t *what, struct ds_error *err)
{
    struct ds__normal step = {.kind = DS__NORMAL_PREPEND};
    int rc = ds__read_only(what, "it", "type prepend", err);

    if (rc == 0)
        rc = ds__read_text(what, "prepend", step.to, DS__MAX_TEXT, err);
    return rc == 0 ? add_normal(t, &step, err) : rc;
}

static int read_normal_replace(struct ds_tokenizer *t, const json_t *what, struct ds_error *err)
{
    struct ds__normal step = {.kind = DS__NORMAL_REPLACE};
    int rc = read_replace(what, step.from, step.to, DS__MAX_TEXT, err);

    return rc == 0 ? add_normal(t, &step, err) : rc;
}

static int read_nfc(struct ds_tokenizer *t, const json_t *what, struct ds_error *err)
{
    struct ds__normal step = {.kind = DS__NORMAL_NFC};
    int rc = ds__read_only(what, "it", "type", err);

    return rc == 0 ? add_normal(t, &step, err) : rc;
}

int ds__read_normalizer(struct ds_tokenizer *t, const json_t *what, struct ds_error *err)
{
    static const struct part normalizers = {
        "normalizer",
        "normalizers",
        {{"Prepend", read_prepend}, {"Replace", read_normal_replace}, {"NFC", read_nfc}}};

    return what == NULL || json_is_null(what) ? 0 : read_part(t, what, &normalizers, err);
}

/* --- pre-tokenizers -------------------------------------------------------------------------- */

/* GPT-2's, which ByteLevel has built in. */
#define GPT2_PATTERN                                                                               \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

static int add_stage(struct ds_tokenizer *t, const char *pattern, bool literal,
                     enum ds__behavior behavior, bool invert, struct ds_error *err)
{
    struct ds__stage *stage = &t->stage[t->stages];
    int rc;

    if (t->stages == DS__MAX_STEPS)
        return ds_fail(err, ENOTSUP, "more than %d stages are not supported", DS__MAX_STEPS);
    rc = ds_pattern_new(&stage->pattern, pattern, literal, err);
    if (rc != 0)
        return rc;
    stage->behavior = behavior;
    stage->invert = invert;
    t->stages++;
    return 0;
}

/* Bytes come last: the stages work on text. */
static int check_order(const struct ds_tokenizer *t, struct ds_error *err)
{
    return t->byte_level ? ds_fail(err, ENOTSUP, "it is not supported after ByteLevel") : 0;
}

static int read_byte_level(struct ds_tokenizer *t, const json_t *what, struct ds_error *err)
{
    bool prefix = false, regex = true;
    int rc = ds__read_only(what, "it", "type add_prefix_space trim_offsets use_regex", err);

    if (rc == 0)
        rc = check_order(t, err);
    if (rc == 0)
        rc = ds__read_bool(what, "add_prefix_space", true, &prefix, err);
    if (rc == 0)
        rc = ds__read_bool(what, "use_regex", true, &regex, err);
    if (rc != 0)
        return rc;
    if (prefix && (t->stages > 0 || t->prefix != DS__PREFIX_NONE))
        return ds_fail(err, ENOTSUP, "'add_prefix_space' is supported where it comes first only");
    if (prefix)
        t->prefix = DS__PREFIX_SPACE;
    t->byte_level = true;
    return regex ? add_stage(t, GPT2_PATTERN, false, DS__ISOLATED, false, err) : 0;
}

static int read_behavior(const json_t *what, enum ds__behavior *behavior, struct ds_error *err)
{
    static const char *const names[] = {
        [DS__ISOLATED] = "Isolated",
        [DS__REMOVED] = "Removed",
        [DS__CONTIGUOUS] = "Contiguous",
        [DS__MERGED_WITH_PREVIOUS] = "MergedWithPrevious",
        [DS__MERGED_WITH_NEXT] = "MergedWithNext",
    };
    const char *name = json_string_value(json_object_get(what, "behavior"));

    for (unsigned i = 0; name != NULL && i < sizeof(names) / sizeof(names[0]); i++)
        if (strcmp(names[i], name) == 0) {
            *behavior = (enum ds__behavior)i;
            return 0;
        }
    return ds_fail(err, EBADMSG, "'behavior' is '%.100s', which is none", name == NULL ? "" : name);
}

static int read_split(struct ds_tokenizer *t, const json_t *what, struct ds_error *err)
{
    enum ds__behavior behavior = DS__ISOLATED;
    bool literal, invert = false;
    const char *pattern = read_pattern(what, &literal);
    int rc = ds__read_only(what, "it", "type pattern behavior invert", err);

    if (rc == 0)
        rc = check_order(t, err);
    if (rc == 0)
        rc = read_behavior(what, &behavior, err);
    if (rc == 0)
        rc = ds__read_bool(what, "invert", false, &invert, err);
    if (rc == 0 && pattern == NULL)
        rc = ds_fail(err, EBADMSG, "'pattern' is neither a 'String' nor a 'Regex'");
    return rc == 0 ? add_stage(t, pattern, literal, behavior, invert, err) : rc;
}

static int read_digits(struct ds_tokenizer *t, const json_t *what, struct ds_error *err)
{
    bool individual = false;
    int rc = ds__read_only(what, "it", "type individual_digits", err);

    if (rc == 0)
        rc = check_order(t, err);
    if (rc == 0)
        rc = ds__read_bool(what, "individual_digits", false, &individual, err);
    return rc == 0 ? add_stage(t, "\\p{N}", false, individual ? DS__ISOLATED : DS__CONTIGUOUS,
                               false, err)
                   : rc;
}

/* The older 'add_prefix_space' and 'prepend_scheme' say the same; they must not say two things. */
static int read_scheme(const json_t *what, enum ds__scheme *scheme, struct ds_error *err)
{
    static const char *const names[] = {
        [DS__SCHEME_ALWAYS] = "always", [DS__SCHEME_FIRST] = "first", [DS__SCHEME_NEVER] = "never"};
    const json_t *given = json_object_get(what, "prepend_scheme");
    const char *name = given == NULL ? "always" : json_string_value(given);
    bool prefix = true;
    unsigned i = 0;
    int rc = ds__read_bool(what, "add_prefix_space", true, &prefix, err);

    if (rc != 0)
        return rc;
    while (i < 3 && (name == NULL || strcmp(names[i], name) != 0))
        i++;
    if (i == 3 || (!prefix && i != DS__SCHEME_NEVER))
        return ds_fail(err, EBADMSG,
                       "'prepend_scheme' is none, or says other than 'add_prefix_space'");
    *scheme = (enum ds__scheme)i;
    return 0;
}

static int read_mark(const json_t *what, char mark[8], enum ds__scheme *scheme, bool *split,
                     struct ds_error *err)
{
    int rc = ds__read_only(what, "it",
                           "type replacement add_prefix_space prepend_scheme split str_rep", err);

    if (rc == 0)
        rc = ds__read_text(what, "replacement", mark, 4, err);
    if (rc == 0 && mark[0] == '\0')
        rc = ds_fail(err, EBADMSG, "'replacement' is empty");
    if (rc == 0)
        rc = ds__read_bool(what, "split", true, split, err);
    return rc == 0 ? read_scheme(what, scheme, err) : rc;
}

static int read_metaspace(struct ds_tokenizer *t, const json_t *what, struct ds_error *err)
{
    bool split = true;
    int rc = check_order(t, err);

    if (rc == 0 && (t->stages > 0 || t->prefix != DS__PREFIX_NONE))
        rc = ds_fail(err, ENOTSUP, "it is supported where it comes first only");
    if (rc == 0)
        rc = read_mark(what, t->mark, &t->scheme, &split, err);
    if (rc != 0)
        return rc;
    t->prefix = DS__PREFIX_METASPACE;
    return split ? add_stage(t, t->mark, true, DS__MERGED_WITH_NEXT, false, err) : 0;
}

int ds__read_pre_tokenizer(struct ds_tokenizer *t, const json_t *what, struct ds_error *err)
{
    static const struct part pre_tokenizers = {"pre-tokenizer",
                                               "pretokenizers",
                                               {{"ByteLevel", read_byte_level},
                                                {"Split", read_split},
                                                {"Digits", read_digits},
                                                {"Metaspace", read_metaspace}}};

    return what == NULL || json_is_null(what) ? 0 : read_part(t, what, &pre_tokenizers, err);
}

/* --- decoders -------------------------------------------------------------------------------- */

static int read_bytes(struct ds_tokenizer *t, const json_t *what, struct ds_error *err)
{
    t->decoder.bytes = true;
    return ds__read_only(what, "it", "type add_prefix_space trim_offsets use_regex", err);
}

static int read_decoder_metaspace(struct ds_tokenizer *t, const json_t *what, struct ds_error *err)
{
    enum ds__scheme scheme;
    bool split;
    int rc = read_mark(what, t->decoder.from, &scheme, &split, err);

    if (rc != 0)
        return rc;
    memcpy(t->decoder.to, " ", 2);
    if (scheme != DS__SCHEME_NEVER)
        memcpy(t->decoder.strip, " ", 2);
    return 0;
}

static int read_decoder_replace(struct ds_tokenizer *t, const json_t *what, struct ds_error *err)
{
    if (t->decoder.from[0] != '\0')
        return ds_fail(err, ENOTSUP, "a second one is not supported");
    return read_replace(what, t->decoder.from, t->decoder.to, sizeof(t->decoder.to) - 1, err);
}

static int read_fallback(struct ds_tokenizer *t, const json_t *what, struct ds_error *err)
{
    t->decoder.fallback = true;
    return ds__read_only(what, "it", "type", err);
}

static int read_fuse(struct ds_tokenizer *t, const json_t *what, struct ds_error *err)
{
    (void)t;
    return ds__read_only(what, "it", "type", err);
}

static int read_strip(struct ds_tokenizer *t, const json_t *what, struct ds_error *err)
{
    json_int_t start = json_integer_value(json_object_get(what, "start"));
    int rc = ds__read_only(what, "it", "type content start stop", err);

    if (rc == 0 && (start > 1 || json_integer_value(json_object_get(what, "stop")) != 0))
        rc = ds_fail(err, ENOTSUP, "only 'start' 1 and 'stop' 0 are supported");
    if (rc == 0 && start == 1)
        rc = ds__read_text(what, "content", t->decoder.strip, sizeof(t->decoder.strip) - 1, err);
    return rc;
}

int ds__read_decoder(struct ds_tokenizer *t, const json_t *what, struct ds_error *err)
{
    static const struct part decoders = {"decoder",
                                         "decoders",
                                         {{"ByteLevel", read_bytes},
                                          {"Metaspace", read_decoder_metaspace},
                                          {"Replace", read_decoder_replace},
                                          {"ByteFallback", read_fallback},
                                          {"Fuse", read_fuse},
                                          {"Strip", read_strip}}};

    if (what != NULL && !json_is_null(what))
        return read_part(t, what, &decoders, err);
    t->decoder.bytes = t->byte_level;
    t->decoder.fallback = t->byte_fallback;
    return 0;
}

/* --- post-processors ------------------------------------------------------------------------- */

/* They add tokens around a prompt, or change offsets: nothing of training data.  Known ones only,
 * so that one which does more is not passed over. */
int ds__read_post_processor(const json_t *what, struct ds_error *err)
{
    static const char *const names[] = {"ByteLevel", "TemplateProcessing", "BertProcessing",
                                        "RobertaProcessing", "Sequence"};
    const char *name = json_string_value(json_object_get(what, "type"));

    if (what == NULL || json_is_null(what))
        return 0;
    for (size_t i = 0; name != NULL && i < sizeof(names) / sizeof(names[0]); i++)
        if (strcmp(names[i], name) == 0)
            return 0;
    return ds_fail(err, ENOTSUP, "post-processor '%.100s' is not known", name == NULL ? "" : name);
}
