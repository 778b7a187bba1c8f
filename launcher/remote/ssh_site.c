/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * ssh_site.c - the contract is in ssh_site.h.
 */
#include "launcher/remote/ssh_site.h"

#include <ctype.h>
#include <errno.h>
#include <glob.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fsio.h"

enum { SSH_PORT = 22, CONNECT_S = 15 };

int ds_ssh_site_init(struct ds_ssh_site *site, struct ds_error *err)
{
    const struct passwd *user = getpwuid(getuid());
    const char *home = getenv("HOME");

    *site = (struct ds_ssh_site){0};
    ds_arena_init(&site->arena);
    if (home == NULL || home[0] != '/')
        home = user != NULL ? user->pw_dir : "/";
    site->home = ds_arena_printf(&site->arena, "%s", home);
    site->local_user = ds_arena_printf(&site->arena, "%s", user != NULL ? user->pw_name : "");
    site->config_path = ds_arena_printf(&site->arena, "%s/.ssh/config", home);
    if (site->home == NULL || site->local_user == NULL || site->config_path == NULL)
        return ds_fail(err, ENOMEM, "no memory for the ssh config");
    return 0;
}

void ds_ssh_site_release(struct ds_ssh_site *site)
{
    for (struct ds_ssh_file *file = site->files; file != NULL; file = file->next)
        ds_buf_release(&file->text);
    ds_arena_release(&site->arena);
    *site = (struct ds_ssh_site){0};
}

/* The text of a file, read once; a missing one is empty.  One that cannot be read is not
 * remembered: whoever asks next must not find it empty, for keys may be revoked in it. */
static int read_file(struct ds_ssh_site *site, const char *path, struct ds_ssh_file **out,
                     struct ds_error *err)
{
    struct ds_ssh_file *file;
    int rc;

    for (file = site->files; file != NULL; file = file->next)
        if (strcmp(file->path, path) == 0) {
            *out = file;
            return 0;
        }
    file = ds_arena_alloc(&site->arena, 1, sizeof(*file));
    if (file == NULL)
        return ds_fail(err, ENOMEM, "no memory for '%s'", path);
    *file = (struct ds_ssh_file){.path = ds_arena_printf(&site->arena, "%s", path)};
    if (file->path == NULL)
        return ds_fail(err, ENOMEM, "no memory for '%s'", path);
    ds_buf_init(&file->text, DS_MAX_SSH_FILE);
    rc = ds_fs_read(path, DS_MAX_SSH_FILE, &file->text, err);
    if (rc == -ENOENT || rc == -ENOTDIR || (rc == -EINVAL && strcmp(path, "/dev/null") == 0)) {
        ds_error_clear(err);
        rc = 0;
    }
    if (rc != 0) {
        ds_buf_release(&file->text);
        return rc;
    }
    file->next = site->files;
    site->files = file;
    *out = file;
    return 0;
}

/* --- the config ------------------------------------------------------------------------------- */

static int apply(struct ds_ssh_reader *reader, const char *path, unsigned depth,
                 struct ds_error *err)
{
    struct ds_ssh_file *file;
    int rc = read_file(reader->user, path, &file, err);

    return rc != 0 ? rc
                   : ds_ssh_config_apply(reader, file->path, ds_buf_text(&file->text),
                                         file->text.len, depth, err);
}

static int include(struct ds_ssh_reader *reader, const char *pattern, unsigned depth,
                   struct ds_error *err)
{
    const struct ds_ssh_site *site = reader->user;
    char path[DS_MAX_PATH];
    glob_t found = {0};
    int n, globbed, rc = 0;

    if (pattern[0] == '~' && pattern[1] == '/')
        n = snprintf(path, sizeof(path), "%s%s", site->home, pattern + 1);
    else
        n = snprintf(path, sizeof(path), "%s%s%s", pattern[0] == '/' ? "" : site->home,
                     pattern[0] == '/' ? "" : "/.ssh/", pattern);
    if (n < 0 || (size_t)n >= sizeof(path))
        return ds_fail(err, EINVAL, "Include '%s': the path is too long", pattern);
    globbed = glob(path, 0, NULL, &found);
    if (globbed == GLOB_NOSPACE)
        rc = ds_fail(err, ENOMEM, "Include '%s': no memory", pattern);
    for (size_t i = 0; rc == 0 && globbed == 0 && i < found.gl_pathc; i++)
        rc = apply(reader, found.gl_pathv[i], depth, err);
    globfree(&found);
    return rc;
}

static int expand_list(struct ds_ssh_site *site, const struct ds_ssh_list *from,
                       const struct ds_ssh_tokens *tokens, struct ds_ssh_list *to,
                       struct ds_error *err)
{
    for (size_t i = 0; i < from->count && to->count < DS_MAX_SSH_IDENTITY; i++) {
        const char *path = ds_ssh_expand(&site->arena, from->item[i], tokens);

        if (path == NULL)
            return ds_fail(err, EINVAL, "%s: cannot expand '%s'", site->config_path, from->item[i]);
        to->item[to->count++] = path;
    }
    return 0;
}

static const struct ds_ssh_list default_identities = {
    .item = {"~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa"}, .count = 3};
static const struct ds_ssh_list default_known = {.item = {"~/.ssh/known_hosts"}, .count = 1};
static const struct ds_ssh_list default_global = {.item = {"/etc/ssh/ssh_known_hosts"}, .count = 1};

static int fill_lists(struct ds_ssh_site *site, const struct ds_ssh_config *config,
                      const struct ds_ssh_tokens *tokens, struct ds_ssh_target *target,
                      struct ds_error *err)
{
    int rc = expand_list(site, config->identity.set ? &config->identity : &default_identities,
                         tokens, &target->identity, err);

    target->identities_given = config->identity.set;
    target->identities_only = config->identities_only;
    if (rc == 0)
        rc = expand_list(site, config->known.set ? &config->known : &default_known, tokens,
                         &target->known, err);
    target->known_own = target->known.count > 0 ? target->known.item[0] : NULL;
    if (rc == 0)
        rc = expand_list(site, config->global_known.set ? &config->global_known : &default_global,
                         tokens, &target->known, err);
    return rc;
}

static int find_agent(struct ds_ssh_site *site, const struct ds_ssh_config *config,
                      const struct ds_ssh_tokens *tokens, const char **agent, struct ds_error *err)
{
    const char *given = config->agent;

    *agent = NULL;
    if (given == NULL || strcmp(given, "SSH_AUTH_SOCK") == 0)
        *agent = getenv("SSH_AUTH_SOCK");
    else if (given[0] == '$')
        *agent = getenv(given + 1);
    else if (strcmp(given, "none") != 0) {
        *agent = ds_ssh_expand(&site->arena, given, tokens);
        if (*agent == NULL)
            return ds_fail(err, EINVAL, "%s: cannot expand '%s'", site->config_path, given);
    }
    return 0;
}

static int fill_target(struct ds_ssh_site *site, const struct ds_host_spec *host,
                       const struct ds_ssh_config *config, struct ds_ssh_target *target,
                       struct ds_error *err)
{
    struct ds_ssh_tokens tokens = {
        .home = site->home, .name = host->name, .local_user = site->local_user};
    char name[DS_MAX_HOST_NAME + 16];
    int hops = 0, rc;

    target->name = host->name;
    target->port = host->port != 0 ? host->port : config->port != 0 ? config->port : SSH_PORT;
    target->user = host->user != NULL     ? host->user
                   : config->user != NULL ? config->user
                                          : site->local_user;
    target->connect_s = config->connect_s != 0 ? config->connect_s : CONNECT_S;
    tokens.port = target->port;
    tokens.user = target->user;
    tokens.host = host->name;
    target->address = host->address != NULL ? host->address
                      : config->hostname != NULL
                          ? ds_ssh_expand(&site->arena, config->hostname, &tokens)
                          : host->name;
    if (target->address == NULL)
        return ds_fail(err, EINVAL, "%s: cannot expand '%s'", site->config_path, config->hostname);
    tokens.host = target->address;
    /* A key is looked up under the name the user reaches the host by. */
    ds_known_name(name, config->alias != NULL ? config->alias : target->address,
                  config->alias != NULL ? 0 : target->port);
    target->key_name = ds_arena_printf(&site->arena, "%s", name);
    rc = find_agent(site, config, &tokens, &target->agent, err);
    if (rc != 0)
        return rc;
    if (config->jump != NULL)
        hops = ds_ssh_jumps(&site->arena, config->jump, target->hop, DS_MAX_SSH_JUMPS, err);
    target->hops = hops > 0 ? (size_t)hops : 0;
    if (hops < 0 || target->key_name == NULL)
        return hops < 0 ? hops : ds_fail(err, ENOMEM, "no memory for the ssh config");
    return fill_lists(site, config, &tokens, target, err);
}

static bool is_safe(const char *text)
{
    if (text == NULL)
        return true;
    for (const char *c = text; *c != '\0'; c++)
        if (!isalnum((unsigned char)*c) && strchr("._-@+:%[]", *c) == NULL)
            return false;
    return text[0] != '-' && text[0] != '\0';
}

int ds_ssh_check_host(const struct ds_host_spec *host, struct ds_error *err)
{
    if (!is_safe(host->name) || !is_safe(host->address) || !is_safe(host->user))
        return ds_fail(err, EINVAL,
                       "a name, address or user must be letters, digits and ._-@+:%%[], and not "
                       "begin with '-'");
    return 0;
}

int ds_ssh_site_resolve(struct ds_ssh_site *site, const struct ds_host_spec *host,
                        struct ds_ssh_target *target, struct ds_error *err)
{
    struct ds_ssh_config config = {0};
    struct ds_ssh_reader reader = {.host = host->name,
                                   .home = site->home,
                                   .arena = &site->arena,
                                   .config = &config,
                                   .include = include,
                                   .user = site};
    int rc = ds_ssh_check_host(host, err);

    *target = (struct ds_ssh_target){0};
    if (rc == 0)
        rc = apply(&reader, site->config_path, 0, err);
    return rc == 0 ? fill_target(site, host, &config, target, err) : rc;
}

int ds_ssh_site_known(struct ds_ssh_site *site, const struct ds_ssh_target *target,
                      struct ds_known *known, struct ds_error *err)
{
    *known = (struct ds_known){0};
    for (size_t i = 0; i < target->known.count; i++) {
        struct ds_ssh_file *file;
        int rc = read_file(site, target->known.item[i], &file, err);

        if (rc != 0)
            return rc;
        ds_known_add(known, file->path, ds_buf_text(&file->text), file->text.len, target->key_name);
    }
    return 0;
}
