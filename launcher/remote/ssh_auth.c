/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * ssh_auth.c - whose key opens a connection; the step is described in ssh.h.
 *
 * Candidates in order: the key files that the config names, the keys of the ssh-agent, the usual
 * key files.  A server gives a client about six tries, so no more than that are made.
 */
#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fsio.h"
#include "launcher/remote/ssh.h"

enum { MAX_TRIES = 6 };

enum use { USE_FILE, USE_AGENT, USE_LATER, USE_END };

/* --- key files -------------------------------------------------------------------------------- */

static void add_note(struct ds_ssh_auth *auth, const char *what, const char *why)
{
    size_t used = strlen(auth->notes);

    (void)snprintf(auth->notes + used, sizeof(auth->notes) - used, "; %s%s%s",
                   what == NULL ? "" : what, what == NULL ? "" : " ", why);
}

/* The key of this file, if it can be tried.  A missing one is no news but where the config names
 * it. */
static const struct ds_ssh_key *usable(struct ds_ssh_link *link, const char *path)
{
    const struct ds_ssh_key *key = ds_ssh_key_find(&link->ssh->keys, path);

    if (key == NULL)
        add_note(link->auth, path, "does not fit in memory");
    else if (key->err.code != 0 && (!key->absent || link->target->identities_given))
        add_note(link->auth, path, key->err.text);
    return key == NULL || key->err.code != 0 ? NULL : key;
}

static LIBSSH2_USERAUTH_PUBLICKEY_SIGN_FUNC(sign_with_file)
{
    const struct ds_ssh_key *key = *abstract;

    (void)session;
    return ds_ssh_key_sign(key, data, data_len, sig, sig_len) == 0
               ? 0
               : LIBSSH2_ERROR_PUBLICKEY_UNVERIFIED;
}

/* --- the agent -------------------------------------------------------------------------------- */

/* It was listed or has failed: all who log in with it may go on.  It has signed: who asked. */
static void on_agent(struct ds_ssh_agent *agent, struct ds_ssh_agent_ask *ask)
{
    struct ds_ssh *ssh = agent->user;

    if (ask != NULL) {
        ds__ssh_drive(ask->user);
        return;
    }
    for (struct ds_ssh_link *link = ssh->links; link != NULL; link = link->next)
        if (link->phase == DS_SSH_AUTH && link->auth != NULL && link->auth->agent == agent)
            ds__ssh_drive(link);
}

/* The agent at that socket, opened when it is not yet; NULL: there is none. */
static struct ds_ssh_agent *find_agent(struct ds_ssh *ssh, const char *path)
{
    struct ds_ssh_agent *agent = ssh->agents;

    if (path == NULL || path[0] == '\0')
        return NULL;
    while (agent != NULL && strcmp(agent->path, path) != 0)
        agent = agent->next;
    if (agent != NULL)
        return agent;
    agent = calloc(1, sizeof(*agent));
    if (agent == NULL)
        return NULL;
    agent->path = path;
    agent->loop = ssh->base.args.loop;
    agent->ready = on_agent;
    agent->user = ssh;
    agent->next = ssh->agents;
    ssh->agents = agent;
    ds_ssh_agent_open(agent);
    return agent;
}

void ds__ssh_agents_close(struct ds_ssh *ssh)
{
    while (ssh->agents != NULL) {
        struct ds_ssh_agent *agent = ssh->agents;

        ssh->agents = agent->next;
        ds_ssh_agent_close(agent);
        free(agent);
    }
}

bool ds__ssh_awaits_agent(const struct ds_ssh_link *link)
{
    return link->phase == DS_SSH_AUTH && link->auth != NULL &&
           link->auth->ask.state == DS_SSH_ASK_WAITS;
}

void ds__ssh_auth_free(struct ds_ssh_link *link)
{
    if (link->auth != NULL)
        ds_ssh_agent_forget(&link->auth->ask);
    free(link->auth);
    link->auth = NULL;
}

/* With IdentitiesOnly, keys whose public half lies beside a named file. */
static bool agent_key_wanted(struct ds_ssh_link *link, const struct ds_ssh_agent_key *key)
{
    const struct ds_ssh_target *target = link->target;
    unsigned char text[(DS_MAX_KEY_BYTES + 2) / 3 * 4 + 1];
    char path[DS_MAX_PATH], type[64];
    bool found = false;

    ds_key_type(type, key->blob, key->len);
    if (strcmp(type, "ssh-rsa") == 0 || strncmp(type, "sk-", 3) == 0) {
        add_note(link->auth, "a key of the ssh-agent", "is RSA or of hardware: --via openssh");
        return false;
    }
    if (!target->identities_only || key->len > DS_MAX_KEY_BYTES)
        return key->len <= DS_MAX_KEY_BYTES;
    (void)EVP_EncodeBlock(text, key->blob, (int)key->len);
    for (size_t i = 0; !found && i < target->identity.count; i++) {
        struct ds_buf file;

        if (snprintf(path, sizeof(path), "%s.pub", target->identity.item[i]) >= (int)sizeof(path))
            continue;
        ds_buf_init(&file, 64 * 1024);
        if (ds_fs_read(path, 64 * 1024, &file, NULL) == 0)
            found = strstr(ds_buf_text(&file), (const char *)text) != NULL;
        ds_buf_release(&file);
    }
    return found;
}

struct signer {
    struct ds_ssh_link *link;
    const struct ds_ssh_agent_key *key;
};

/* Called again, with the same data, until there is a signature or none is to be had. */
static LIBSSH2_USERAUTH_PUBLICKEY_SIGN_FUNC(sign_with_agent)
{
    const struct signer *signer = *abstract;
    struct ds_ssh_auth *auth = signer->link->auth;
    struct ds_ssh_agent_ask *ask = &auth->ask;
    int rc = 0;

    (void)session;
    ask->user = signer->link;
    if (ask->state == DS_SSH_ASK_NONE)
        rc = ds_ssh_agent_sign(auth->agent, ask, signer->key, data, data_len, NULL);
    if (rc == 0 && ask->state == DS_SSH_ASK_WAITS)
        return LIBSSH2_ERROR_EAGAIN;
    if (rc == 0)
        rc = ask->rc;
    if (rc == 0) {
        *sig = ask->sig; /* moved */
        *sig_len = ask->sig_len;
        ask->sig = NULL;
    }
    ds_ssh_agent_forget(ask);
    return rc == 0 ? 0 : LIBSSH2_ERROR_PUBLICKEY_UNVERIFIED;
}

/* --- candidates ------------------------------------------------------------------------------- */

/* What candidate `next` is: an index into files or keys; or not known before the agent has told. */
static enum use find_use(const struct ds_ssh_link *link, size_t *index)
{
    const struct ds_ssh_target *target = link->target;
    const struct ds_ssh_agent *agent = link->auth->agent;
    size_t files = target->identity.count, at = link->auth->next;
    size_t keys = agent == NULL ? 0 : agent->keys;
    size_t first = target->identities_given ? files : keys;
    bool known = agent == NULL || agent->state >= DS_SSH_AGENT_LISTED;

    if (!known && !(target->identities_given && at < files))
        return USE_LATER;
    if (at >= files + keys)
        return USE_END;
    *index = at < first ? at : at - first;
    return (at < first) == target->identities_given ? USE_FILE : USE_AGENT;
}

/* Try candidate `next`: 1 in, 0 not now, -EACCES refused, -ENOENT not tried. */
static int try_one(struct ds_ssh_link *link, enum use use, size_t index)
{
    const struct ds_ssh_target *target = link->target;
    struct ds_ssh_agent *agent = link->auth->agent;
    int rc;

    if (use == USE_FILE) {
        const struct ds_ssh_key *key = usable(link, target->identity.item[index]);
        void *abstract = (void *)(uintptr_t)key; /* read only */

        if (key == NULL)
            return -ENOENT;
        rc = libssh2_userauth_publickey(link->session, target->user, key->blob, key->len,
                                        sign_with_file, &abstract);
    } else {
        struct signer signer = {link, &agent->key[index]};
        void *abstract = &signer;

        if (!link->auth->begun &&
            (agent->state == DS_SSH_AGENT_FAILED || !agent_key_wanted(link, &agent->key[index])))
            return -ENOENT;
        link->auth->begun = true;
        rc = libssh2_userauth_publickey(link->session, target->user, agent->key[index].blob,
                                        agent->key[index].len, sign_with_agent, &abstract);
    }
    if (rc == LIBSSH2_ERROR_EAGAIN)
        return 0;
    if (rc == 0)
        return 1;
    return rc == LIBSSH2_ERROR_SOCKET_DISCONNECT || rc == LIBSSH2_ERROR_SOCKET_RECV ||
                   rc == LIBSSH2_ERROR_SOCKET_SEND
               ? -ECONNRESET
               : -EACCES;
}

int ds__ssh_authenticate(struct ds_ssh_link *link, struct ds_error *err)
{
    size_t index = 0;
    enum use use;
    int rc;

    if (link->auth == NULL) {
        link->auth = calloc(1, sizeof(*link->auth));
        if (link->auth == NULL)
            return ds_fail(err, ENOMEM, "no memory to log in");
        link->auth->agent = find_agent(link->ssh, link->target->agent);
    }
    while (link->auth->tried < MAX_TRIES && (use = find_use(link, &index)) != USE_END) {
        rc = use == USE_LATER ? 0 : try_one(link, use, index);
        if (rc == 0)
            return 0;
        if (rc == -ECONNRESET)
            return ds_fail(err, EHOSTUNREACH, "its sshd hung up during the login of '%s'%s",
                           link->target->user, link->auth->notes);
        if (rc == 1) {
            ds__ssh_auth_free(link);
            ds__ssh_enter(link, DS_SSH_READY);
            return 1;
        }
        link->auth->tried += rc == -EACCES;
        link->auth->begun = false;
        link->auth->next++;
    }
    if (link->auth->agent != NULL && link->auth->agent->state == DS_SSH_AGENT_FAILED)
        add_note(link->auth, NULL, link->auth->agent->err.text);
    return ds_fail(err, EHOSTUNREACH, "it accepts no key for user '%s' (%u tried)%s",
                   link->target->user, link->auth->tried, link->auth->notes);
}
