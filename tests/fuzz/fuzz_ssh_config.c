/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fuzz_ssh_config.c - any bytes as ~/.ssh/config; what it names is expanded and split.
 *
 * Beyond "no crash": numbers are in range, an error names a line, and a file that was accepted says
 * the same when it is read with itself once more behind it (the first value wins).
 */
#include <assert.h>
#include <errno.h>
#include <stdint.h>
#include <string.h>

#include "base/buf.h"
#include "launcher/remote/ssh_config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int include(struct ds_ssh_reader *reader, const char *pattern, unsigned depth,
                   struct ds_error *err)
{
    return ds_ssh_config_apply(reader, "included", pattern, strlen(pattern), depth, err);
}

static void use(struct ds_arena *arena, const struct ds_ssh_config *config)
{
    const struct ds_ssh_tokens tokens = {.home = "/home/me",
                                         .host = "host",
                                         .name = "node1",
                                         .user = "me",
                                         .local_user = "me",
                                         .port = 22};
    struct ds_ssh_hop hop[DS_MAX_SSH_JUMPS];

    assert(config->port <= 65535 && config->connect_s <= 3600);
    for (size_t i = 0; i < config->identity.count; i++)
        (void)ds_ssh_expand(arena, config->identity.item[i], &tokens);
    if (config->jump != NULL) {
        int hops = ds_ssh_jumps(arena, config->jump, hop, DS_MAX_SSH_JUMPS, NULL);

        assert(hops == -EINVAL || (hops >= 1 && hops <= DS_MAX_SSH_JUMPS));
    }
}

static bool same(const char *a, const char *b)
{
    return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ds_ssh_config config = {0}, again = {0};
    struct ds_ssh_reader reader = {
        .host = "node1", .home = "/home/me", .config = &config, .include = include};
    struct ds_error err = {0};
    struct ds_arena arena;
    int rc;

    ds_arena_init(&arena);
    reader.arena = &arena;
    rc = ds_ssh_config_apply(&reader, "f", (const char *)data, size, 0, &err);
    if (rc == 0) {
        use(&arena, &config);
        reader.config = &again;
        assert(ds_ssh_config_apply(&reader, "f", (const char *)data, size, 0, &err) == 0);
        assert(same(config.user, again.user) && same(config.hostname, again.hostname) &&
               config.port == again.port);
    } else {
        assert(err.text[0] != '\0');
    }
    ds_arena_release(&arena);
    return 0;
}
