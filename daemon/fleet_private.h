/* fleet_private.h - what the files of the fleet share: fleet.c (making, starting, stopping, verbs, reading),
 * fleet_retry.c (refused messages once more), fleet_trace.c (who looks at a mailbox's wire), fleet_reload.c (an old and a new configuration turned into start, stop, keep) and fleet_health.c (the verdict on
 * them all). Nobody else includes it. */
#pragma once
#include <sys/queue.h>
#include "admission.h"
#include "config.h"
#include "counters.h"
#include "fleet.h"
#include "sink.h"

struct event; struct resolver; struct http; struct spool; struct volumes;

struct member {				/* a mailbox of the configuration, or one on its way out */
	struct fleet *fleet;
	struct mailbox *mailbox;
	struct seat seat;
	struct member *successor;	/* starts when this one has stopped: the same id, changed */
	struct member *predecessor;	/* that has not stopped yet */
	bool leaving;			/* not in fleet->members any more, but of fleet->leaving until it has stopped */
	TAILQ_ENTRY(member) leaving_link;
	bool kept;			/* by the reload that runs */
	struct fleet_trace *traces;	/* who looks at its wire */
};
struct reload_wish { struct reload_wish *next; void (*done)(void *arg, const struct reload_outcome *); void *arg; };

struct fleet {
	struct event_base *base;	/* lent */
	struct workers *workers;	/* lent */
	struct config *config;
	int64_t loaded_wall_s;
	char *config_error;		/* of the last reload; NULL: it was good */
	take_config_cb *take_config; void *taker;
	char run[9];
	/* owned, made bottom up */
	struct volumes *volumes; struct store *store; struct spool *spool; struct resolver *resolver; struct dialer *dialer;
	struct tls *tls; struct http *http; struct token_cache *tokens; struct quarantine_counts *quarantined;
	struct sinks *sinks; struct admission *admission;
	struct volume *state_volume;	/* one of volumes */
	bool looking_at_state;		/* for its free space */
	struct mailbox_env env;
	struct mailbox_ops ops;
	struct lane *look_lane;		/* the quarantine */
	struct lane *config_lane;	/* configuration files */
	struct member **members; size_t n_members;	/* in the order of the configuration */
	TAILQ_HEAD(, member) leaving; size_t n_leaving;
	size_t by_state[MAILBOX_STATE_N];
	uint64_t delivered;
	struct counters counters;
	struct audit *audit;
	size_t n_failing; bool failing_known;
	bool started, stopping;
	struct event *check_timer;	/* for mailboxes past their deadline */
	struct event *recovery_timer;	/* until which the start waits for a disk */
	bool stuck;			/* one still is, after its session was torn down */
	void (*on_ready)(void *arg); void *ready_arg;
	void (*on_stopped)(void *arg); void *stopped_arg;
	struct event *stop_timer, *hurry_timer, *stopped_ev;
	struct reload_wish *reloading, *reload_next;	/* answered by the run under way; by the one after it */
	struct health_reason *reasons; size_t n_reasons;	/* of the last verdict, for their `since` */
	size_t *watching;		/* how many mailboxes each credential has in IDLE, in the order of the configuration's credentials */
};

struct member *fleet_member(const struct fleet *, const char *address_or_id);	/* NULL: none */
struct member *member_new(struct fleet *, const struct mailbox_conf *);
void member_start(struct member *);
struct member *fleet_last_leaving(const struct fleet *, const char *id);	/* of those that nobody follows yet; NULL: none */
void member_retire(struct member *);		/* stops it; freed when it has stopped */
void member_end_traces(struct member *, const char *why);
void fleet_drop_reloads(struct fleet *);	/* those that will not be done any more are answered */
void fleet_apply_globals(struct fleet *, struct config *);	/* takes config over; mailboxes are not touched */
void fleet_count_watching(struct fleet *);	/* in the configuration */
enum health_level fleet_judge(struct fleet *);	/* each `since` is as old as the first verdict that saw it */
