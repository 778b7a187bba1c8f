/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_manifest.c - manifests written, read back, and spoiled in every way that a seal cannot see.
 */
#include <errno.h>

#include "runtime/ckpt/manifest.h"
#include "tests/ckpt/support.h"

TestSuite(manifest, .init = tempdir_make, .fini = tempdir_remove);

/* A sound one, in the writer's own form but for the seal; %s places are what the cases replace. */
/* clang-format off */
#define HEAD "{\"format\":\"dsrun-checkpoint\",\"version\":1"
#define BLOCKS(bytes) "{\"format\":\"dsrun-checkpoint\",\"version\":2,\"block_bytes\":" #bytes
#define PART "{\"format\":\"dsrun-checkpoint-part\",\"version\":2,\"block_bytes\":32"
#define STATED(more) ",\"state\":{\"step\":4,\"samples\":8,\"tokens\":64,\"skipped\":0," \
              "\"seed\":\"18446744073709551615\",\"job_digest\":\"ffffffffffffffff\",\"world\":2" more "}"
#define STATE STATED("")
#define MODEL ",\"model\":{\"arch\":\"llama\",\"layers\":1,\"hidden\":4,\"heads\":2,\"kv_heads\":1,\"head_size\":2," \
              "\"ffn\":8,\"vocab\":5,\"context\":8,\"tie_embeddings\":false,\"norm_eps\":1e-05,\"rope_theta\":10000}"
/* Of a family with members of its own. */
#define OTHER(arch, more) ",\"model\":{\"arch\":\"" arch "\",\"layers\":1,\"hidden\":4,\"heads\":2,\"kv_heads\":1,\"head_size\":2," \
              "\"ffn\":8,\"vocab\":5,\"context\":8,\"tie_embeddings\":false,\"norm_eps\":1e-05,\"rope_theta\":10000" more "}"
#define EXPERTS(n, each) ",\"experts\":" #n ",\"experts_per_token\":" #each ",\"expert_balance\":0.01"
#define SCALING(text) OTHER("qwen2", ",\"rope_scaling\":" text)
#define LORA(text) OTHER("llama", ",\"lora\":" text)
#define TARGETS(names) "{\"rank\":2,\"alpha\":4,\"targets\":[" names "]}"
#define DROPPING(names) "{\"rank\":2,\"alpha\":4,\"rslora\":true,\"dropout\":0.25,\"targets\":[" names "]}"
#define BASE(text) ",\"base\":" text
#define A_BASE BASE("{\"path\":\"/models/llama\",\"digest\":\"00000000000000ab\",\"frozen\":\"00000000000000cd\"}")
#define LLAMA3 "\"type\":\"llama3\",\"factor\":8"
#define SCALES ",\"embedding_multiplier\":12,\"residual_multiplier\":0.22,\"attention_multiplier\":0.3"
#define LONGROPE "\"type\":\"longrope\",\"factor\":1,\"attention_factor\":1.5,\"short_factor\":[1,1.25]"
#define YARN "\"type\":\"yarn\",\"factor\":2,\"beta_slow\":1,\"beta_fast\":32"
#define A_FILE ",\"files\":[{\"name\":\"w.safetensors\",\"bytes\":34,\"header_bytes\":10," \
              "\"header_xxh3\":\"0000000000000001\"}]"
#define SUM "00000000000000ff"
#define SUMMED(at, bytes, begin, sums) "{\"file\":0,\"offset\":" #at ",\"bytes\":" #bytes ",\"begin\":" #begin \
              ",\"xxh3\":\"" sums "\"}"
#define RANGE(at, bytes, begin) SUMMED(at, bytes, begin, SUM)
#define TENSOR(name, shape, ranges) "{\"name\":\"" name "\",\"dtype\":\"F32\",\"shape\":" shape \
              ",\"ranges\":[" ranges "]}"
#define TENSORS ",\"tensors\":[" TENSOR("a", "[2,2]", RANGE(10, 8, 0) "," RANGE(18, 8, 2)) "," \
              TENSOR("b", "[2]", RANGE(26, 8, 0)) "]"
#define VIEWS_HEAD(version) "{\"format\":\"dsrun-checkpoint\",\"version\":" #version ",\"block_bytes\":64"
#define VIEW(columns, ranges) "{\"columns\":[" columns "],\"ranges\":[" ranges "]}"
#define VIEWED(shape, more) "{\"name\":\"a\",\"dtype\":\"F32\",\"shape\":" shape "," more "}"
#define DIVIDED(shape, views) VIEWS_HEAD(3) STATE MODEL A_FILE ",\"tensors\":[" \
              VIEWED(shape, "\"views\":[" views "]") "]"
#define ENDS VIEW("[0,1],[2,3]", RANGE(10, 16, 0)) /* of [2,3], with [1,2] all of it */
#define PART_VIEWS(views) "{\"format\":\"dsrun-checkpoint-part\",\"version\":3,\"block_bytes\":64" \
              STATE MODEL A_FILE ",\"tensors\":[" VIEWED("[2,9]", "\"views\":[" views "]") "]"
#define ONLY(tensors) HEAD STATE MODEL A_FILE ",\"tensors\":[" tensors "]"

static const struct { const char *body; int rc; const char *says; } bodies[] = {
    {HEAD STATE MODEL A_FILE TENSORS, 0, ""},
    {HEAD STATE MODEL A_FILE TENSORS ",\"later\":[1]", 0, ""}, /* members that are not known yet */
    {"{\"format\":\"dsrun-checkpoint\",\"version\":5" STATE MODEL A_FILE TENSORS, -ENOTSUP, "version 5"},
    {"{\"format\":\"dsrun-checkpoint\",\"version\":0" STATE MODEL A_FILE TENSORS, -ENOTSUP, "version 0"},
    {HEAD STATE OTHER("mixtral", EXPERTS(4, 2)) A_FILE TENSORS, 0, ""},
    {HEAD STATE OTHER("mixtral", "") A_FILE TENSORS, -EBADMSG, "'experts'"},
    {HEAD STATE OTHER("mixtral", EXPERTS(257, 2)) A_FILE TENSORS, -EBADMSG, "'experts'"},
    {HEAD STATE OTHER("mixtral", EXPERTS(4, 17)) A_FILE TENSORS, -EBADMSG, "'experts_per_token'"},
    {HEAD STATE OTHER("mixtral", EXPERTS(4, true)) A_FILE TENSORS, -EBADMSG, "'experts_per_token'"},
    {HEAD STATE OTHER("mixtral", ",\"experts\":4,\"experts_per_token\":2") A_FILE TENSORS, -EBADMSG, "'expert_balance'"},
    {HEAD STATE OTHER("qwen2", "") A_FILE TENSORS, 0, ""},
    {HEAD STATE OTHER("phi3", ",\"rope_dims\":2,\"window\":4") A_FILE TENSORS, 0, ""},
    {HEAD STATE OTHER("gemma3", ",\"full_every\":6,\"rope_local_theta\":1e4,\"query_scalar\":0,\"window\":4") A_FILE TENSORS, 0, ""},
    {HEAD STATE OTHER("gemma3", ",\"full_every\":6,\"query_scalar\":0") A_FILE TENSORS, -EBADMSG, "'rope_local_theta'"},
    {HEAD STATE OTHER("smollm3", ",\"nope_every\":4") A_FILE TENSORS, 0, ""},
    {HEAD STATE OTHER("smollm3", ",\"nope_every\":1.5") A_FILE TENSORS, -EBADMSG, "'nope_every'"},
    {HEAD STATE OTHER("granite", SCALES ",\"logits_scaling\":8") A_FILE TENSORS, 0, ""},
    {HEAD STATE OTHER("granite", SCALES) A_FILE TENSORS, -EBADMSG, "'logits_scaling'"},
    {HEAD STATE OTHER("gpt_neox", ",\"parallel_residual\":true,\"rope_dims\":2") A_FILE TENSORS, 0, ""},
    {HEAD STATE OTHER("gpt_neox", "") A_FILE TENSORS, -EBADMSG, "'parallel_residual'"},
    {HEAD STATE OTHER("granite", "") A_FILE TENSORS, -EBADMSG, "'embedding_multiplier'"},
    {HEAD STATE OTHER("phi3", ",\"rope_dims\":true") A_FILE TENSORS, -EBADMSG, "'rope_dims'"},
    {HEAD STATE SCALING("{\"type\":\"linear\",\"factor\":2}") A_FILE TENSORS, 0, ""},
    {HEAD STATE SCALING("{" LLAMA3 ",\"low_freq_factor\":1,\"high_freq_factor\":4,\"original_context\":8}") A_FILE TENSORS, 0, ""},
    {HEAD STATE SCALING("{" LLAMA3 ",\"low_freq_factor\":1,\"high_freq_factor\":4}") A_FILE TENSORS, -EBADMSG, "'original_context'"},
    {HEAD STATE SCALING("{" LLAMA3 "}") A_FILE TENSORS, -EBADMSG, "'low_freq_factor'"},
    {HEAD STATE SCALING("{\"type\":\"linear\"}") A_FILE TENSORS, -EBADMSG, "'factor'"},
    {HEAD STATE SCALING("{" YARN ",\"attention_factor\":1.5,\"original_context\":8}") A_FILE TENSORS, 0, ""},
    {HEAD STATE SCALING("{" YARN ",\"attention_factor\":1.5}") A_FILE TENSORS, -EBADMSG, "'original_context'"},
    {HEAD STATE SCALING("{" YARN ",\"original_context\":8}") A_FILE TENSORS, -EBADMSG, "'attention_factor'"},
    {HEAD STATE SCALING("{\"type\":\"yarn\",\"factor\":2}") A_FILE TENSORS, -EBADMSG, "'beta_slow'"},
    {HEAD STATE SCALING("{" LONGROPE ",\"long_factor\":[1.5,2],\"original_context\":8}") A_FILE TENSORS, 0, ""},
    {HEAD STATE SCALING("{" LONGROPE ",\"long_factor\":[1.5,2]}") A_FILE TENSORS, -EBADMSG, "'original_context'"},
    {HEAD STATE SCALING("{" LONGROPE ",\"long_factor\":[1.5,true]}") A_FILE TENSORS, -EBADMSG, "'long_factor'"},
    {HEAD STATE SCALING("{" LONGROPE "}") A_FILE TENSORS, -EBADMSG, "'long_factor'"},
    {HEAD STATE SCALING("{\"type\":\"longrope\",\"factor\":1}") A_FILE TENSORS, -EBADMSG, "'attention_factor'"},
    {HEAD STATE SCALING("{\"type\":\"dynamic\",\"factor\":2}") A_FILE TENSORS, -ENOTSUP, "'rope_scaling' is 'dynamic'"},
    {HEAD STATE SCALING("{\"type\":\"none\",\"factor\":2}") A_FILE TENSORS, -ENOTSUP, "'rope_scaling' is 'none'"},
    {HEAD STATE SCALING("[2]") A_FILE TENSORS, -EBADMSG, "'rope_scaling' is not an object"},
    {VIEWS_HEAD(4) STATE LORA(TARGETS("\"self_attn.q_proj\",\"mlp.down_proj\"")) A_BASE A_FILE TENSORS, 0, ""},
    {VIEWS_HEAD(4) STATE LORA("[2]") A_BASE A_FILE TENSORS, -EBADMSG, "'lora' is not an object"},
    {VIEWS_HEAD(4) STATE LORA("{\"alpha\":4}") A_BASE A_FILE TENSORS, -EBADMSG, "'rank'"},
    {VIEWS_HEAD(4) STATE LORA("{\"rank\":2000,\"alpha\":4}") A_BASE A_FILE TENSORS, -EBADMSG, "'rank'"},
    {VIEWS_HEAD(4) STATE LORA("{\"rank\":2,\"alpha\":4}") A_BASE A_FILE TENSORS, -EBADMSG, "'targets' is not a list"},
    {VIEWS_HEAD(4) STATE LORA(TARGETS("\"c_attn\"")) A_BASE A_FILE TENSORS, -EBADMSG, "no matrix for a target"},
    {VIEWS_HEAD(4) STATE LORA("{\"rank\":2,\"alpha\":4,\"dropout\":\"no\",\"targets\":[]}") A_BASE A_FILE TENSORS, -EBADMSG, "'dropout'"},
    {VIEWS_HEAD(4) STATE LORA("{\"rank\":2,\"alpha\":4,\"rslora\":1,\"targets\":[]}") A_BASE A_FILE TENSORS, -EBADMSG, "'rslora'"},
    {VIEWS_HEAD(4) STATE LORA(TARGETS("7")) A_BASE A_FILE TENSORS, -EBADMSG, "no matrix for a target"},
    {VIEWS_HEAD(4) STATE MODEL BASE("7") A_FILE TENSORS, -EBADMSG, "'base' is not an object"},
    {VIEWS_HEAD(4) STATE MODEL BASE("{\"path\":\"llama\",\"digest\":\"ab\"}") A_FILE TENSORS, -EBADMSG, "not an absolute path"},
    {VIEWS_HEAD(4) STATE MODEL BASE("{\"path\":\"/llama\"}") A_FILE TENSORS, -EBADMSG, "'digest'"},
    {BLOCKS(8) STATE MODEL A_FILE TENSORS, 0, ""},
    {BLOCKS(16) STATE MODEL A_FILE TENSORS, 0, ""}, /* a block that is longer than its range */
    {"{\"format\":\"dsrun-checkpoint\",\"version\":2" STATE MODEL A_FILE TENSORS, -EBADMSG, "'block_bytes'"},
    {BLOCKS(0) STATE MODEL A_FILE TENSORS, -EBADMSG, "'block_bytes'"},
    {BLOCKS(12) STATE MODEL A_FILE TENSORS, -EBADMSG, "'block_bytes'"},
    {BLOCKS(67108872) STATE MODEL A_FILE TENSORS, -EBADMSG, "'block_bytes'"},
    {BLOCKS(8) STATE MODEL A_FILE ",\"tensors\":[" TENSOR("a", "[6]", RANGE(10, 24, 0)) "]", -EBADMSG,
     "does not hold 3 sums"},
    {BLOCKS(8) STATE MODEL A_FILE ",\"tensors\":[" TENSOR("a", "[6]", SUMMED(10, 24, 0, SUM SUM SUM)) "]", 0, ""},
    {BLOCKS(16) STATE MODEL A_FILE ",\"tensors\":[" TENSOR("a", "[6]", SUMMED(10, 24, 0, SUM SUM)) "]", 0, ""},
    {BLOCKS(16) STATE MODEL A_FILE ",\"tensors\":[" TENSOR("a", "[6]", SUMMED(10, 24, 0, SUM SUM "0")) "]",
     -EBADMSG, "does not hold 2 sums"},
    {BLOCKS(32) STATE MODEL A_FILE ",\"tensors\":[" TENSOR("a", "[6]", SUMMED(10, 24, 0, "000000000000000G")) "]",
     -EBADMSG, "does not hold 1 sums"},
    /* what a part may leave out */
    {PART STATE MODEL A_FILE ",\"tensors\":[" TENSOR("a", "[9]", RANGE(10, 8, 1) "," RANGE(18, 8, 4)) ","
     TENSOR("b", "[2]", RANGE(26, 8, 0)) "]", 0, ""},
    {PART STATE MODEL A_FILE ",\"tensors\":[" TENSOR("a", "[9]", RANGE(10, 8, 1) "," RANGE(18, 8, 2)) ","
     TENSOR("b", "[2]", RANGE(26, 8, 0)) "]", -EBADMSG, "do not follow each other"},
    {PART STATE MODEL A_FILE ",\"tensors\":[" TENSOR("a", "[9]", RANGE(10, 24, 4)) "]", -EBADMSG,
     "do not follow each other"},
    {PART STATE MODEL A_FILE ",\"tensors\":[" TENSOR("a", "[9]", RANGE(10, 24, 10)) "]", -EBADMSG,
     "do not follow each other"},
    /* columns that were divided */
    {DIVIDED("[2,3]", ENDS "," VIEW("[1,2]", RANGE(26, 8, 0))), 0, ""},
    {DIVIDED("[2,3]", ENDS "," VIEW("[1,2]", RANGE(26, 4, 0) "," RANGE(30, 4, 1))), 0, ""},
    {DIVIDED("[6]", VIEW("[0,1],[2,3],[4,5]", RANGE(10, 12, 0)) "," VIEW("[1,2],[3,4],[5,6]", RANGE(22, 12, 0))),
     0, ""},
    {VIEWS_HEAD(3) STATE MODEL A_FILE TENSORS, 0, ""}, /* version 3 without them */
    {VIEWS_HEAD(2) STATE MODEL A_FILE ",\"tensors\":[" VIEWED("[2,3]", "\"views\":[" ENDS "]") "]", -EBADMSG,
     "'ranges' is not a list"}, /* before version 3 that is no member */
    {VIEWS_HEAD(3) STATE MODEL A_FILE ",\"tensors\":[" VIEWED("[2,3]", "\"views\":[" ENDS "],\"ranges\":[]") "]",
     -EBADMSG, "ranges and views"},
    {DIVIDED("[2,3]", ""), -EBADMSG, "no view"},
    {DIVIDED("[2,3]", "7"), -EBADMSG, "view 0: 'columns' is not a list"},
    {DIVIDED("[2,3]", VIEW("", RANGE(10, 24, 0))), -EBADMSG, "the 0 runs of its columns are not the fewest"},
    {DIVIDED("[2,3]", VIEW("[0,3]", RANGE(10, 24, 0))), -EBADMSG, "the 1 runs of its columns are not the fewest"},
    {DIVIDED("[2,3]", VIEW("[0,1],[1,2]", RANGE(10, 16, 0)) "," VIEW("[2,3]", RANGE(26, 8, 0))), -EBADMSG,
     "the 2 runs of its columns are not the fewest"},
    {DIVIDED("[2,9]", VIEW("[0,1],[2,3],[4,5],[6,7],[8,9]", "")), -EBADMSG, "view 0: 'columns' has 5 elements"},
    {DIVIDED("[2,3]", VIEW("[0]", "")), -EBADMSG, "pairs, first and end"},
    {DIVIDED("[2,3]", VIEW("[0,1,2]", "")), -EBADMSG, "pairs, first and end"},
    {DIVIDED("[2,3]", VIEW("0,1", "")), -EBADMSG, "pairs, first and end"},
    {DIVIDED("[2,3]", VIEW("[0,1.5]", "")), -EBADMSG, "pairs, first and end"},
    {DIVIDED("[2,3]", VIEW("[-1,1]", "")), -EBADMSG, "pairs, first and end"},
    {DIVIDED("[2,3]", VIEW("[1,1]", "")), -EBADMSG, "pairs, first and end"},
    {DIVIDED("[2,3]", VIEW("[2,1]", "")), -EBADMSG, "pairs, first and end"},
    {DIVIDED("[2,3]", VIEW("[2,4]", "")), -EBADMSG, "2 columns from 2 on, is not in 3"},
    {DIVIDED("[2,3]", VIEW("[1,9223372036854775807]", "")), -EBADMSG, "is not in 3"},
    {DIVIDED("[]", VIEW("[0,2]", "")), -EBADMSG, "is not in 1"},
    {DIVIDED("[2,3]", VIEW("[2,3],[0,1]", "")), -EBADMSG, "does not lie behind run 0"},
    {DIVIDED("[2,3]", VIEW("[0,2],[1,3]", "")), -EBADMSG, "does not lie behind run 0"},
    {DIVIDED("[2,3]", ENDS), -EBADMSG, "columns 1 to 2 are in none of its views"},
    {DIVIDED("[2,3]", VIEW("[1,2]", RANGE(10, 8, 0))), -EBADMSG, "columns 0 to 1 are in none of its views"},
    {DIVIDED("[2,3]", VIEW("[0,2]", RANGE(10, 16, 0))), -EBADMSG, "columns 2 to 3 are in none of its views"},
    {DIVIDED("[2,3]", VIEW("[0,2]", RANGE(10, 16, 0)) "," VIEW("[1,3]", RANGE(10, 16, 0))), -EBADMSG,
     "columns 1 to 2 are in two of its views"},
    {DIVIDED("[2,9]", VIEW("[0,1],[2,9]", RANGE(10, 64, 0)) "," VIEW("[1,4]", RANGE(10, 24, 0))), -EBADMSG,
     "does not lie in the data"},
    {DIVIDED("[1,6]", VIEW("[0,1],[2,6]", RANGE(10, 20, 0)) "," VIEW("[1,4]", RANGE(10, 12, 0))), -EBADMSG,
     "columns 2 to 4 are in two of its views"},
    {DIVIDED("[2,3]", ENDS "," ENDS), -EBADMSG, "view 1 stands twice or out of order"},
    {DIVIDED("[2,3]", VIEW("[1,2]", RANGE(26, 8, 0)) "," ENDS), -EBADMSG, "view 1 stands twice or out of order"},
    {DIVIDED("[2,3]", ENDS "," VIEW("[1,2]", RANGE(26, 4, 0))), -EBADMSG, "view 1: its ranges hold 1 of 2 elements"},
    {DIVIDED("[2,3]", ENDS "," VIEW("[1,2]", RANGE(26, 8, 1))), -EBADMSG, "do not follow each other"},
    {DIVIDED("[2,3]", VIEW("[0,1],[2,3]", RANGE(10, 20, 0)) "," VIEW("[1,2]", RANGE(26, 8, 0))), -EBADMSG,
     "do not follow each other"},
    {DIVIDED("[1,3]", VIEW("[0,1],[2,3]", RANGE(10, 8, 0)) "," VIEW("[1,2]", RANGE(18, 4, 0))), -EBADMSG,
     "12 bytes of file 'w.safetensors' belong to no"},
    {DIVIDED("[2,6]", VIEW("[0,3]", RANGE(10, 24, 0)) "," VIEW("[3,6]", RANGE(10, 24, 0))), -EBADMSG,
     "'a' shares bytes of file"},
    {DIVIDED("[4294967296,4294967296]", VIEW("[0,1]", "")), -EBADMSG, "2^64"},
    {PART_VIEWS(VIEW("[0,1],[4,5]", RANGE(10, 8, 1)) "," VIEW("[2,4],[5,7]", RANGE(18, 16, 0))), 0, ""},
    {PART_VIEWS(VIEW("[0,1],[4,5]", RANGE(10, 8, 1)) "," VIEW("[2,5]", RANGE(18, 16, 0))), -EBADMSG,
     "columns 4 to 5 are in two of its views"},
    {PART_VIEWS(VIEW("[0,1],[4,5]", RANGE(10, 24, 0))), -EBADMSG, "do not follow each other"},
    {HEAD STATED(",\"stage\":3,\"shard_ranks\":2,\"scalars\":{\"loss_scale\":65536,\"x\":0.5}")
     MODEL A_FILE TENSORS, 0, ""},
    {HEAD STATED(",\"stage\":-1") MODEL A_FILE TENSORS, -EBADMSG, "'stage'"},
    {HEAD STATED(",\"tensor_ranks\":2,\"expert_ranks\":4") MODEL A_FILE TENSORS, 0, ""},
    {HEAD STATED(",\"pipeline_ranks\":1.5") MODEL A_FILE TENSORS, -EBADMSG, "'pipeline_ranks'"},
    {HEAD STATED(",\"scalars\":[]") MODEL A_FILE TENSORS, -EBADMSG, "'scalars' is not an object"},
    {HEAD STATED(",\"scalars\":{\"x\":\"1\"}") MODEL A_FILE TENSORS, -EBADMSG, "'x'"},
    {HEAD STATED(",\"scalars\":{\"\":1}") MODEL A_FILE TENSORS, -EBADMSG, "no name of a number"},
    {HEAD STATED(",\"scalars\":{\"0\":1,\"1\":1,\"2\":1,\"3\":1,\"4\":1,\"5\":1,\"6\":1,\"7\":1,\"8\":1,"
     "\"9\":1,\"a\":1,\"b\":1,\"c\":1,\"d\":1,\"e\":1,\"f\":1,\"g\":1}") MODEL A_FILE TENSORS, -EBADMSG,
     "one more than 16"},
    {"{\"format\":\"other\",\"version\":1" STATE MODEL A_FILE TENSORS, -EBADMSG, "'other'"},
    {"{\"version\":1" STATE MODEL A_FILE TENSORS, -EBADMSG, "'format'"},
    {"[1", -EBADMSG, "line 2"},
    {HEAD MODEL A_FILE TENSORS, -EBADMSG, "'state' is not an object"},
    {HEAD STATE A_FILE TENSORS, -EBADMSG, "'model' is not an object"},
    {HEAD STATE MODEL TENSORS, -EBADMSG, "'files' is not a list"},
    {HEAD STATE MODEL A_FILE, -EBADMSG, "'tensors' is not a list"},
    {HEAD ",\"state\":{\"step\":1000000001}" MODEL A_FILE TENSORS, -EBADMSG, "'step'"},
    {HEAD ",\"state\":{\"step\":-1}" MODEL A_FILE TENSORS, -EBADMSG, "'step'"},
    {HEAD ",\"state\":{\"step\":1,\"samples\":1,\"tokens\":1,\"skipped\":1,\"world\":1,\"seed\":\"-1\"}"
     MODEL A_FILE TENSORS, -EBADMSG, "'seed'"},
    {HEAD ",\"state\":{\"step\":1,\"samples\":1,\"tokens\":1,\"skipped\":1,\"world\":1,"
     "\"seed\":\"18446744073709551616\"}" MODEL A_FILE TENSORS, -EBADMSG, "'seed'"},
    {HEAD ",\"state\":{\"step\":1,\"samples\":1,\"tokens\":1,\"skipped\":1,\"world\":1,\"seed\":\"\"}"
     MODEL A_FILE TENSORS, -EBADMSG, "'seed'"},
    {HEAD STATE ",\"model\":{\"arch\":\"bert\"}" A_FILE TENSORS, -ENOTSUP, "'bert'"},
    {HEAD STATE ",\"model\":{\"arch\":\"gpt2\",\"layers\":1025}" A_FILE TENSORS, -EBADMSG, "'layers'"},
    {HEAD STATE MODEL ",\"files\":[{\"name\":\"../w\",\"bytes\":34,\"header_bytes\":10}]" TENSORS,
     -EBADMSG, "'../w' is not a plain file name"},
    {HEAD STATE MODEL ",\"files\":[{\"name\":\"/etc/passwd\"}]" TENSORS, -EBADMSG, "plain file name"},
    {HEAD STATE MODEL ",\"files\":[{\"name\":\"..\"}]" TENSORS, -EBADMSG, "plain file name"},
    {HEAD STATE MODEL ",\"files\":[{\"name\":\"\"}]" TENSORS, -EBADMSG, "plain file name"},
    {HEAD STATE MODEL ",\"files\":[7]" TENSORS, -EBADMSG, "'name'"},
    {HEAD STATE MODEL ",\"files\":[{\"name\":\"w\",\"bytes\":34,\"header_bytes\":35}]" TENSORS,
     -EBADMSG, "'header_bytes'"},
    {HEAD STATE MODEL ",\"files\":[]" TENSORS, -EBADMSG, "file 0 of 0"},
    {ONLY("7"), -EBADMSG, "'name'"},
    {ONLY(TENSOR("", "[1]", "")), -EBADMSG, "tensor name"},
    {ONLY("{\"name\":\"a\",\"dtype\":\"Q4\",\"shape\":[],\"ranges\":[]}"), -ENOTSUP, "'Q4'"},
    {ONLY(TENSOR("a", "[-1]", "")), -EBADMSG, "dimension 0"},
    {ONLY(TENSOR("a", "[1,1,1,1,1,1,1,1,1]", "")), -EBADMSG, "'shape' has 9 elements"},
    {ONLY(TENSOR("a", "[4294967296,4294967296]", "")), -EBADMSG, "2^64"},
    {ONLY(TENSOR("a", "[6]", "")), -EBADMSG, "0 of 6 elements"},
    {ONLY(TENSOR("a", "[6]", RANGE(10, 20, 0))), -EBADMSG, "5 of 6 elements"},
    {ONLY(TENSOR("a", "[6]", RANGE(10, 28, 0))), -EBADMSG, "does not lie in the data"},
    {ONLY(TENSOR("a", "[6]", RANGE(9, 24, 0))), -EBADMSG, "does not lie in the data"},
    {ONLY(TENSOR("a", "[6]", RANGE(9223372036854775807, 24, 0))), -EBADMSG, "does not lie in the data"},
    {ONLY(TENSOR("a", "[6]", RANGE(35, 0, 0))), -EBADMSG, "does not lie in the data"},
    {ONLY(TENSOR("a", "[6]", RANGE(10, 23, 0))), -EBADMSG, "do not follow each other"},
    {ONLY(TENSOR("a", "[6]", RANGE(10, 24, 1))), -EBADMSG, "do not follow each other"},
    {ONLY(TENSOR("a", "[5]", RANGE(10, 24, 0))), -EBADMSG, "do not follow each other"},
    {ONLY(TENSOR("a", "[4]", RANGE(10, 8, 0) "," RANGE(18, 8, 1))), -EBADMSG, "do not follow each other"},
    {ONLY(TENSOR("a", "[4]", RANGE(10, 16, 0))), -EBADMSG, "8 bytes of file 'w.safetensors' belong to no"},
    {ONLY(TENSOR("a", "[6]", RANGE(10, 24, 0)) "," TENSOR("b", "[1]", RANGE(10, 4, 0))), -EBADMSG,
     "'b' shares bytes"},
    /* as many bytes as there are, but some twice and others not at all */
    {ONLY(TENSOR("a", "[3]", RANGE(10, 12, 0)) "," TENSOR("b", "[3]", RANGE(18, 12, 0))), -EBADMSG, "'b' shares bytes"},
    {ONLY(TENSOR("a", "[3]", RANGE(22, 12, 0)) "," TENSOR("b", "[3]", RANGE(22, 12, 0))), -EBADMSG,
     "12 bytes of file 'w.safetensors' belong to no"},
    {ONLY(TENSOR("a", "[2]", RANGE(10, 8, 0)) "," TENSOR("b", "[3]", RANGE(22, 12, 0))), -EBADMSG,
     "4 bytes of file 'w.safetensors' belong to no"},
    {ONLY(TENSOR("a", "[0]", RANGE(12, 0, 0)) "," TENSOR("b", "[6]", RANGE(10, 24, 0))), 0, ""},
    {ONLY(TENSOR("b", "[3]", RANGE(10, 12, 0)) "," TENSOR("a", "[3]", RANGE(22, 12, 0))), -EBADMSG,
     "out of order"},
    {ONLY(TENSOR("a", "[3]", RANGE(10, 12, 0)) "," TENSOR("a", "[3]", RANGE(22, 12, 0))), -EBADMSG,
     "stands twice"},
    {ONLY("{\"name\":\"a\",\"name\":\"b\"}"), -EBADMSG, "duplicate"},
};
/* clang-format on */

static struct ds_buf sealed(const char *body)
{
    struct ds_buf out;

    ds_buf_init(&out, 1 << 16);
    cr_assert(ds_buf_puts(&out, body) == 0 && ds_manifest_seal(&out, NULL) == 0);
    return out;
}

Test(manifest, under_a_good_seal_everything_is_checked)
{
    for (size_t i = 0; i < sizeof(bodies) / sizeof(bodies[0]); i++) {
        struct ds_buf text = sealed(bodies[i].body);
        struct ds_manifest m;
        struct ds_error err = {0};
        int rc = ds_manifest_parse(&m, text.data, text.len, &err);

        cr_assert(rc == bodies[i].rc, "case %zu: %d %s", i, rc, err.text);
        cr_assert(strstr(err.text, bodies[i].says) != NULL, "case %zu: '%s'", i, err.text);
        ds_manifest_release(&m);
        ds_buf_release(&text);
    }
}

Test(manifest, so_are_adapters_and_what_they_were_made_on)
{
    struct ds_buf text = sealed(VIEWS_HEAD(4) STATE LORA(DROPPING("\"v_proj\",\"mlp.up_proj\""))
                                    A_BASE A_FILE TENSORS),
                  again;
    struct ds_manifest m;

    cr_assert(ds_manifest_parse(&m, text.data, text.len, NULL) == 0);
    ds_buf_init(&again, 1 << 16);
    cr_assert(ds_manifest_write(&m, &again, NULL) == 0);
    ds_manifest_release(&m);
    cr_assert(strstr(ds_buf_text(&again), "\"version\":4") != NULL);
    cr_assert(ds_manifest_parse(&m, again.data, again.len, NULL) == 0);
    cr_assert(m.state.shape.lora.rank == 2 && m.state.shape.lora.alpha == 4.0);
    cr_assert(m.state.shape.lora.dropout == 0.25 && m.state.shape.lora.by_root);
    cr_assert_eq(m.state.shape.lora.targets, 1U << DS_ADAPTED_V | 1U << DS_ADAPTED_UP);
    cr_assert_str_eq(m.state.base.path, "/models/llama");
    cr_assert(m.state.base.digest == 0xab && m.state.base.frozen == 0xcd);
    ds_manifest_release(&m);
    ds_buf_release(&text);
    ds_buf_release(&again);
}

Test(manifest, what_is_read_is_what_was_written)
{
    struct ds_buf text = sealed(bodies[0].body), again;
    struct ds_manifest m;
    const struct ds_manifest_tensor *a;

    cr_assert(ds_manifest_parse(&m, text.data, text.len, NULL) == 0);
    cr_assert(m.state.step == 4 && m.state.seed == UINT64_MAX && m.state.job_digest == UINT64_MAX);
    cr_assert(m.state.world == 2 && m.state.shape.arch == DS_ARCH_LLAMA);
    cr_assert(m.state.shape.kv_heads == 1 && !m.state.shape.tie_embeddings);
    cr_assert(m.state.shape.norm_eps == 1e-5 && m.state.shape.rope_theta == 1e4);
    a = ds_manifest_find(&m, "a");
    cr_assert(a != NULL && a->view->ranges == 2 && a->view->range[1].begin_elem == 2 &&
              a->elems == 4);
    cr_assert(a->view->range[1].offset == 18 && a->view->range[1].xxh3[0] == 0xff);
    cr_assert(ds_manifest_find(&m, "c") == NULL);
    ds_buf_init(&again, 1 << 16);
    cr_assert(ds_manifest_write(&m, &again, NULL) == 0);
    ds_manifest_release(&m);
    cr_assert(ds_manifest_parse(&m, again.data, again.len, NULL) == 0);
    cr_assert(m.state.seed == UINT64_MAX && m.tensors == 2 &&
              m.tensor[0].view->range[1].offset == 18);
    ds_manifest_release(&m);
    ds_buf_release(&text);
    ds_buf_release(&again);
}

Test(manifest, every_flipped_bit_and_every_cut_breaks_the_seal)
{
    struct ds_buf text = sealed(bodies[0].body);
    struct ds_manifest m;
    struct ds_error err = {0};

    for (size_t i = 0; i < text.len * 8; i++) {
        text.data[i / 8] = (char)(text.data[i / 8] ^ (1 << i % 8));
        cr_assert(ds_manifest_parse(&m, text.data, text.len, &err) == -EBADMSG, "bit %zu", i);
        text.data[i / 8] = (char)(text.data[i / 8] ^ (1 << i % 8));
    }
    for (size_t len = 0; len < text.len; len++)
        cr_assert(ds_manifest_parse(&m, text.data, len, &err) == -EBADMSG, "%zu bytes", len);
    cr_assert(ds_manifest_parse(&m, text.data, text.len, &err) == 0);
    ds_manifest_release(&m);
    ds_buf_release(&text);
}

Test(manifest, two_tensors_of_one_name_are_not_written)
{
    struct ds_manifest_tensor twice[] = {{.name = "a"}, {.name = "b"}, {.name = "a"}};
    struct ds_manifest m;
    struct ds_error err = {0};
    struct ds_buf text;

    ds_manifest_init(&m);
    m.tensor = twice;
    m.tensors = 3;
    ds_buf_init(&text, 1 << 16);
    cr_assert(ds_manifest_write(&m, &text, &err) == -EINVAL);
    cr_assert(strstr(err.text, "'a'") != NULL, "%s", err.text);
    ds_buf_release(&text);
    ds_buf_init(&text, 40);
    m.tensors = 0;
    cr_assert(ds_manifest_write(&m, &text, &err) == -ENOBUFS);
    ds_buf_release(&text);
}

Test(manifest, a_missing_file_is_missing_and_a_folder_is_no_file)
{
    struct ds_manifest m;
    struct ds_error err = {0};

    cr_assert(ds_manifest_load(&m, tempdir_path("none"), &err) == -ENOENT);
    cr_assert(strstr(err.text, "none") != NULL, "%s", err.text);
    cr_assert(ds_manifest_load(&m, tempdir_path(""), &err) == -EBADMSG, "%s", err.text);
}

/* What a later program wrote is sound, and so is another family's model. */
Test(manifest, a_file_that_is_not_for_this_program_is_not_called_damaged)
{
    struct ds_buf later = sealed(VIEWS_HEAD(5) STATE MODEL A_FILE TENSORS);
    struct ds_buf spoilt = sealed(VIEWS_HEAD(3) STATE MODEL A_FILE);
    const char *path = tempdir_path("manifest.json");
    struct ds_manifest m;
    struct ds_error err = {0};

    spill(path, later.data, later.len);
    cr_assert(ds_manifest_load(&m, path, &err) == -ENOTSUP);
    cr_assert(strstr(err.text, "damaged") == NULL && strstr(err.text, path) != NULL, "%s",
              err.text);
    spill(path, spoilt.data, spoilt.len);
    cr_assert(ds_manifest_load(&m, path, &err) == -EBADMSG);
    cr_assert(strstr(err.text, "damaged file '") != NULL, "%s", err.text);
    ds_buf_release(&later);
    ds_buf_release(&spoilt);
}
