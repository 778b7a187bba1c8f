# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
#
# Install, uninstall and the source archive.  The usual directory variables of the GNU coding
# standards, in capitals or small letters; DESTDIR is put in front of everything.

PREFIX      ?= /usr/local
prefix      ?= $(PREFIX)
exec_prefix ?= $(prefix)
bindir      ?= $(exec_prefix)/bin
libexecdir  ?= $(exec_prefix)/libexec
datarootdir ?= $(prefix)/share
docdir      ?= $(datarootdir)/doc/dsrun
mandir      ?= $(datarootdir)/man
bashcompdir ?= $(datarootdir)/bash-completion/completions
zshcompdir  ?= $(datarootdir)/zsh/site-functions

INSTALL         ?= install
INSTALL_PROGRAM ?= $(INSTALL) -m 755
INSTALL_DATA    ?= $(INSTALL) -m 644

DOCS := README.md CHANGELOG.md LICENSE SECURITY.md
# man/rules.mk lists the pages, written or generated, in MANPAGES.
man_of = $(DESTDIR)$(mandir)/man$(patsubst .%,%,$(suffix $(1)))/$(notdir $(1))

install: all ## install below PREFIX (/usr/local), with DESTDIR in front
	$(INSTALL) -d $(DESTDIR)$(bindir) $(DESTDIR)$(libexecdir)/dsrun $(DESTDIR)$(docdir) \
	    $(DESTDIR)$(bashcompdir) $(DESTDIR)$(zshcompdir)
	$(INSTALL_PROGRAM) $(B)/bin/dsrun $(DESTDIR)$(bindir)/dsrun
	$(INSTALL_PROGRAM) $(wildcard $(B)/libexec/dsrun/*) $(DESTDIR)$(libexecdir)/dsrun/
	$(INSTALL_DATA) $(DOCS) $(DESTDIR)$(docdir)/
	$(B)/bin/dsrun --completion bash >$(B)/dsrun.bash
	$(INSTALL_DATA) $(B)/dsrun.bash $(DESTDIR)$(bashcompdir)/dsrun
	$(B)/bin/dsrun --completion zsh >$(B)/_dsrun
	$(INSTALL_DATA) $(B)/_dsrun $(DESTDIR)$(zshcompdir)/_dsrun
	$(foreach m,$(MANPAGES),$(INSTALL) -d $(dir $(call man_of,$(m))) && \
	    $(INSTALL_DATA) $(m) $(call man_of,$(m)) && ) :

# Directories are removed when they are empty: below the prefix, and with DESTDIR the whole chain.
INSTALLED_DIRS = $(bindir) $(libexecdir)/dsrun $(docdir) $(bashcompdir) $(zshcompdir) $(sort $(dir $(foreach m,$(MANPAGES),$(mandir)/man$(patsubst .%,%,$(suffix $(m)))/x)))
uninstall: ## remove what install put there
	rm -f $(DESTDIR)$(bindir)/dsrun $(DESTDIR)$(bashcompdir)/dsrun $(DESTDIR)$(zshcompdir)/_dsrun $(addprefix $(DESTDIR)$(docdir)/,$(DOCS)) \
	    $(foreach m,$(MANPAGES),$(call man_of,$(m))) $(DESTDIR)$(libexecdir)/dsrun/dsrun-*
	cd $(or $(DESTDIR),$(prefix)) && rmdir -p --ignore-fail-on-non-empty \
	    $(patsubst $(if $(DESTDIR),,$(prefix))/%,%,$(INSTALLED_DIRS)) 2>/dev/null || :

dist: ## the source archive of the last commit, build/dsrun-VERSION.tar.gz
	$(Q)mkdir -p $(B)
	git archive --format=tar --prefix=dsrun-$(VERSION)/ HEAD | gzip -n9 > $(B)/dsrun-$(VERSION).tar.gz

.PHONY: install uninstall dist
