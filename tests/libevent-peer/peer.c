/*
 * Runs scripts of bufferevent operations on libevent and prints what happened.
 *
 * Scripts come on standard input, one operation a line, "end" after each script. B, A and U are numbers of
 * bufferevents, 0 to 7; N numbers of bytes. DIRS is r, w or rw. OPTS is - or letters: c close on free, d defer
 * callbacks, u unlock callbacks.
 *
 *   sock B OPTS            a bufferevent over one end of a socketpair; the script itself holds the other end
 *   nofd B OPTS            one without a descriptor
 *   duo A B OPTS           two over the two ends of a socketpair
 *   pair A B OPTS          a bufferevent pair
 *   filter B U OPTS KIND   a filter over U: pass, xor, block, dup, err
 *   connect B TO           TO: unix, tcp (somebody listens), refused (tcp), nounix (nobody does)
 *   accept B               takes the other end of B's connection
 *   setfd B new|none       goes on with a new socketpair, or with nothing
 *   write B N              read B N              drains at most N
 *   addin B                tries to append to the input
 *   drainout B             tries to drain the output
 *   echo B A               moves B's input to A's output
 *   enable B DIRS          disable B DIRS
 *   marks B DIRS LOW HIGH  timeouts B R_MS W_MS
 *   flush B DIRS normal|flush|finished
 *   trigger B DIRS OPTS    i ignore marks, d defer
 *   event B FLAGS OPTS     FLAGS in hexadecimal
 *   priority B P           maxread B N           maxwrite B N
 *   setcb B                sets the callbacks    clearcb B
 *   free B                 stop
 *   pwrite B N  pread B N  pshut B  pclose B     the other end: writes, reads, ends its stream, goes
 *   on B KIND OP...        what the next callback of a kind does: r and w for reads and writes, R, W and C for events
 *                          with READING, with WRITING, with neither
 *   always B KIND OP...    what they do when there is none of these
 *   run                    runs the loop until nothing happens any more
 *   wait MS                runs it for so long
 *
 * Every operation prints "> OP". A callback prints "BD NAME LENGTH", where D is its direction; what an operation
 * prints carries the BD of the callback it runs in, or "main". Run and wait end with the state of every bufferevent.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "filters.h"

enum {
	SLOTS = 8,
	ACTIONS = 32,
	/* Lines that one run may print; more is a loop without an end. */
	RUN_LINES = 200,
	QUIET_TURNS = 5
};

struct action {
	char kind;
	char *op;
};

struct slot {
	struct bufferevent *bev;
	int peer;
	int under, partner, closes;
	enum filter_kind kind;
	uint32_t written, peer_written;
	struct action actions[ACTIONS];
	/* A kind each. */
	char *always[5];
	int action_count;
};

static struct slot slots[SLOTS];
static struct event_base *base;
static char where[8];
static int lines, endless;
static int listen_unix, listen_tcp, refused_tcp;
static struct sockaddr_un unix_addr, nounix_addr;
static struct sockaddr_in tcp_addr, refused_addr;

static void run_op(char *op);

#define SAY(...)                                          \
	do {                                              \
		if (++lines <= RUN_LINES) {               \
			printf("%s ", where);             \
			printf(__VA_ARGS__);              \
			putchar('\n');                    \
		} else {                                  \
			endless = 1;                      \
			event_base_loopbreak(base);       \
		}                                         \
	} while (0)

static uint32_t fnv(uint32_t hash, const unsigned char *bytes, size_t len)
{
	for (size_t i = 0; i < len; i++)
		hash = (hash ^ bytes[i]) * 16777619u;
	return hash;
}

static unsigned char stream_byte(uint32_t at, int id, int peer)
{
	return (unsigned char)(peer ? at * 5 + (uint32_t)id * 17 + 3 : at * 7 + (uint32_t)id * 31);
}

static void nonblocking(int fd)
{
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

static char **always_of(struct slot *slot, char kind)
{
	static const char kinds[] = "rwRWC";
	return &slot->always[strchr(kinds, kind) - kinds];
}

static void called(int id, char kind)
{
	struct slot *slot = &slots[id];
	for (int i = 0; i < slot->action_count; i++) {
		if (slot->actions[i].kind == kind) {
			char *op = slot->actions[i].op;
			slot->action_count--;
			memmove(&slot->actions[i], &slot->actions[i + 1],
			    sizeof *slot->actions * (size_t)(slot->action_count - i));
			run_op(op);
			free(op);
			return;
		}
	}
	char **always = always_of(slot, kind);
	if (*always != NULL) {
		char *op = strdup(*always);
		run_op(op);
		free(op);
	}
}

static void on_data(int id, char direction, size_t len, const char *name)
{
	char saved[sizeof where];
	memcpy(saved, where, sizeof where);
	snprintf(where, sizeof where, "%d%c", id, direction);
	SAY("%s %zu", name, len);
	called(id, direction);
	memcpy(where, saved, sizeof where);
}

static void on_read(struct bufferevent *bev, void *ctx)
{
	on_data((int)(intptr_t)ctx, 'r', evbuffer_get_length(bufferevent_get_input(bev)), "read");
}

static void on_write(struct bufferevent *bev, void *ctx)
{
	on_data((int)(intptr_t)ctx, 'w', evbuffer_get_length(bufferevent_get_output(bev)), "write");
}

static void on_event(struct bufferevent *bev, short what, void *ctx)
{
	int id = (int)(intptr_t)ctx, error = EVUTIL_SOCKET_ERROR();
	char saved[sizeof where];
	(void)bev;
	memcpy(saved, where, sizeof where);
	snprintf(where, sizeof where, "%d%c", id,
	    what & BEV_EVENT_READING ? 'r' : what & BEV_EVENT_WRITING ? 'w' : 'c');
	if (what & BEV_EVENT_ERROR)
		SAY("event %x errno %d", what, error);
	else
		SAY("event %x", what);
	called(id, (char)toupper(where[1]));
	memcpy(where, saved, sizeof where);
}

static void set_callbacks(int id)
{
	bufferevent_setcb(slots[id].bev, on_read, on_write, on_event, (void *)(intptr_t)id);
}

static int options(const char *letters)
{
	int options = 0;
	options |= strchr(letters, 'c') ? BEV_OPT_CLOSE_ON_FREE : 0;
	options |= strchr(letters, 'd') ? BEV_OPT_DEFER_CALLBACKS : 0;
	options |= strchr(letters, 'u') ? BEV_OPT_UNLOCK_CALLBACKS : 0;
	return options;
}

static int trigger_options(const char *letters)
{
	int options = 0;
	options |= strchr(letters, 'd') ? BEV_OPT_DEFER_CALLBACKS : 0;
	options |= strchr(letters, 'i') ? BEV_TRIG_IGNORE_WATERMARKS : 0;
	return options;
}

static short dirs(const char *letters)
{
	return (short)((strchr(letters, 'r') ? EV_READ : 0) | (strchr(letters, 'w') ? EV_WRITE : 0));
}

static void socketpair_for(int ends[2])
{
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends) != 0) {
		perror("socketpair");
		exit(1);
	}
}

static void made(int id, struct bufferevent *bev, const char *opts)
{
	struct slot *slot = &slots[id];
	slot->bev = bev;
	slot->under = slot->partner = -1;
	slot->closes = strchr(opts, 'c') != NULL;
	if (bev == NULL)
		SAY("refused");
	else
		set_callbacks(id);
}

static void close_peer(int id)
{
	if (slots[id].peer >= 0)
		close(slots[id].peer);
	slots[id].peer = -1;
}

static void make(char **w)
{
	int id = atoi(w[1]), ends[2];
	if (strcmp(w[0], "sock") == 0) {
		socketpair_for(ends);
		slots[id].peer = ends[1];
		made(id, bufferevent_socket_new(base, ends[0], options(w[2])), w[2]);
	} else if (strcmp(w[0], "nofd") == 0) {
		made(id, bufferevent_socket_new(base, -1, options(w[2])), w[2]);
	} else if (strcmp(w[0], "duo") == 0) {
		socketpair_for(ends);
		made(id, bufferevent_socket_new(base, ends[0], options(w[3])), w[3]);
		made(atoi(w[2]), bufferevent_socket_new(base, ends[1], options(w[3])), w[3]);
	} else if (strcmp(w[0], "pair") == 0) {
		struct bufferevent *both[2] = {NULL, NULL};
		int other = atoi(w[2]);
		bufferevent_pair_new(base, options(w[3]), both);
		made(id, both[0], w[3]);
		if (both[1] != NULL) {
			made(other, both[1], w[3]);
			slots[id].partner = other;
			slots[other].partner = id;
		}
	} else {
		int under = atoi(w[2]);
		struct slot *slot = &slots[id];
		if (slots[under].bev == NULL)
			return;
		for (size_t kind = 0; kind < sizeof filter_names / sizeof *filter_names; kind++) {
			if (strcmp(w[4], filter_names[kind]) == 0)
				slot->kind = (enum filter_kind)kind;
		}
		made(id, bufferevent_filter_new(slots[under].bev, filter_in, filter_out, options(w[3]),
			     NULL, &slot->kind), w[3]);
		if (slot->bev != NULL)
			slot->under = under;
	}
}

static void gone(int id)
{
	struct slot *slot = &slots[id];
	slot->bev = NULL;
	if (slot->under >= 0 && slot->closes)
		gone(slot->under);
}

static void free_bev(int id)
{
	struct bufferevent *bev = slots[id].bev;
	gone(id);
	bufferevent_free(bev);
}

static void do_connect(int id, const char *to)
{
	struct bufferevent *bev = slots[id].bev;
	int failed;
	if (strcmp(to, "unix") == 0)
		failed = bufferevent_socket_connect(
		    bev, (struct sockaddr *)&unix_addr, sizeof unix_addr);
	else if (strcmp(to, "nounix") == 0)
		failed = bufferevent_socket_connect(
		    bev, (struct sockaddr *)&nounix_addr, sizeof nounix_addr);
	else if (strcmp(to, "tcp") == 0)
		failed = bufferevent_socket_connect(
		    bev, (struct sockaddr *)&tcp_addr, sizeof tcp_addr);
	else
		failed = bufferevent_socket_connect(
		    bev, (struct sockaddr *)&refused_addr, sizeof refused_addr);
	if (failed)
		SAY("refused");
}

static void do_accept(int id)
{
	close_peer(id);
	slots[id].peer = accept4(listen_unix, NULL, NULL, SOCK_NONBLOCK);
	if (slots[id].peer < 0)
		slots[id].peer = accept4(listen_tcp, NULL, NULL, SOCK_NONBLOCK);
	SAY("%s", slots[id].peer >= 0 ? "accepted" : "nobody");
}

static void peer_op(char **w)
{
	int id = atoi(w[1]);
	struct slot *slot = &slots[id];
	static unsigned char buf[1 << 20];
	if (slot->peer < 0)
		return;
	if (strcmp(w[0], "pwrite") == 0) {
		int n = atoi(w[2]);
		for (int i = 0; i < n; i++)
			buf[i] = stream_byte(slot->peer_written + (uint32_t)i, id, 1);
		ssize_t put = send(slot->peer, buf, (size_t)n, MSG_NOSIGNAL);
		if (put > 0)
			slot->peer_written += (uint32_t)put;
		else
			SAY("pwrite errno %d", errno);
	} else if (strcmp(w[0], "pread") == 0) {
		size_t want = (size_t)atoi(w[2]), got = 0;
		const char *end = "";
		while (got < want) {
			ssize_t n = recv(slot->peer, buf + got, want - got, 0);
			if (n > 0) {
				got += (size_t)n;
				continue;
			}
			if (n == 0)
				end = " eof";
			else if (errno != EAGAIN)
				end = " error";
			break;
		}
		SAY("pgot %zu %08x%s", got, fnv(2166136261u, buf, got), end);
	} else if (strcmp(w[0], "pshut") == 0) {
		shutdown(slot->peer, SHUT_WR);
	} else {
		close_peer(id);
	}
}

static void bev_op(char **w)
{
	int id = atoi(w[1]);
	struct slot *slot = &slots[id];
	struct bufferevent *bev = slot->bev;
	const char *op = w[0];
	if (bev == NULL)
		return;
	if (strcmp(op, "write") == 0) {
		size_t n = (size_t)atoi(w[2]);
		unsigned char *bytes = malloc(n + 1);
		for (size_t i = 0; i < n; i++)
			bytes[i] = stream_byte(slot->written + (uint32_t)i, id, 0);
		slot->written += (uint32_t)n;
		if (bufferevent_write(bev, bytes, n) != 0)
			SAY("refused");
		free(bytes);
	} else if (strcmp(op, "read") == 0) {
		size_t n = (size_t)atoi(w[2]);
		unsigned char *bytes = malloc(n + 1);
		n = bufferevent_read(bev, bytes, n);
		SAY("got %zu %08x", n, fnv(2166136261u, bytes, n));
		free(bytes);
	} else if (strcmp(op, "addin") == 0) {
		if (evbuffer_add(bufferevent_get_input(bev), "x", 1) != 0)
			SAY("refused");
	} else if (strcmp(op, "drainout") == 0) {
		if (evbuffer_drain(bufferevent_get_output(bev), 1) != 0)
			SAY("refused");
	} else if (strcmp(op, "echo") == 0) {
		if (slots[atoi(w[2])].bev != NULL)
			bufferevent_write_buffer(slots[atoi(w[2])].bev, bufferevent_get_input(bev));
	} else if (strcmp(op, "enable") == 0) {
		bufferevent_enable(bev, dirs(w[2]));
	} else if (strcmp(op, "disable") == 0) {
		bufferevent_disable(bev, dirs(w[2]));
	} else if (strcmp(op, "marks") == 0) {
		bufferevent_setwatermark(bev, dirs(w[2]), (size_t)atoi(w[3]), (size_t)atoi(w[4]));
	} else if (strcmp(op, "timeouts") == 0) {
		struct timeval r = {0, atoi(w[2]) * 1000}, wr = {0, atoi(w[3]) * 1000};
		bufferevent_set_timeouts(
		    bev, r.tv_usec ? &r : NULL, wr.tv_usec ? &wr : NULL);
	} else if (strcmp(op, "flush") == 0) {
		enum bufferevent_flush_mode mode = strcmp(w[3], "normal") == 0 ? BEV_NORMAL
		    : strcmp(w[3], "flush") == 0 ? BEV_FLUSH : BEV_FINISHED;
		int result = bufferevent_flush(bev, dirs(w[2]), mode);
		SAY("flushed %d", result);
	} else if (strcmp(op, "trigger") == 0) {
		bufferevent_trigger(bev, dirs(w[2]), trigger_options(w[3]));
	} else if (strcmp(op, "event") == 0) {
		errno = 0;
		bufferevent_trigger_event(
		    bev, (short)strtol(w[2], NULL, 16), trigger_options(w[3]));
	} else if (strcmp(op, "priority") == 0) {
		if (bufferevent_priority_set(bev, atoi(w[2])) != 0)
			SAY("refused");
	} else if (strcmp(op, "maxread") == 0) {
		bufferevent_set_max_single_read(bev, (size_t)atoi(w[2]));
	} else if (strcmp(op, "maxwrite") == 0) {
		bufferevent_set_max_single_write(bev, (size_t)atoi(w[2]));
	} else if (strcmp(op, "setcb") == 0) {
		set_callbacks(id);
	} else if (strcmp(op, "clearcb") == 0) {
		bufferevent_setcb(bev, NULL, NULL, NULL, NULL);
	} else if (strcmp(op, "connect") == 0) {
		do_connect(id, w[2]);
	} else if (strcmp(op, "setfd") == 0) {
		int ends[2], old = (int)bufferevent_getfd(bev), fd = -1;
		close_peer(id);
		if (strcmp(w[2], "new") == 0) {
			socketpair_for(ends);
			fd = ends[0];
			slot->peer = ends[1];
		}
		if (bufferevent_setfd(bev, fd) != 0)
			SAY("refused");
		else if (old >= 0)
			close(old);
	} else if (strcmp(op, "free") == 0) {
		free_bev(id);
	} else {
		fprintf(stderr, "unknown operation %s\n", op);
		exit(1);
	}
}

static size_t sum_of_states(void)
{
	size_t sum = (size_t)lines;
	for (int id = 0; id < SLOTS; id++) {
		struct bufferevent *bev = slots[id].bev;
		if (bev != NULL)
			sum = sum * 31 + evbuffer_get_length(bufferevent_get_input(bev)) * 7 +
			    evbuffer_get_length(bufferevent_get_output(bev)) +
			    (size_t)bufferevent_get_enabled(bev);
	}
	return sum;
}

static void say_states(void)
{
	if (endless)
		printf("endless\n");
	for (int id = 0; id < SLOTS; id++) {
		struct bufferevent *bev = slots[id].bev;
		if (bev == NULL)
			continue;
		short enabled = bufferevent_get_enabled(bev);
		printf("= %d %s%s in %zu out %zu\n", id, enabled & EV_READ ? "r" : "-",
		    enabled & EV_WRITE ? "w" : "-", evbuffer_get_length(bufferevent_get_input(bev)),
		    evbuffer_get_length(bufferevent_get_output(bev)));
	}
}

static long now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void run_until_quiet(long least_ms)
{
	long until = now_ms() + least_ms;
	int quiet = 0;
	while (!endless && (quiet < QUIET_TURNS || now_ms() < until)) {
		size_t before = sum_of_states();
		event_base_loop(base, EVLOOP_NONBLOCK | EVLOOP_NO_EXIT_ON_EMPTY);
		quiet = sum_of_states() == before ? quiet + 1 : 0;
		if (least_ms != 0 && quiet != 0)
			usleep(200);
	}
	say_states();
}

static void run_op(char *op)
{
	char copy[256], *w[8] = {"", "", "", "", "", "", "", ""}, *save = NULL;
	int count = 0;
	snprintf(copy, sizeof copy, "%s", op);
	for (char *word = strtok_r(copy, " \n", &save); word != NULL && count < 8;
	     word = strtok_r(NULL, " \n", &save))
		w[count++] = word;
	if (count == 0)
		return;
	if (strcmp(w[0], "run") == 0) {
		run_until_quiet(0);
	} else if (strcmp(w[0], "wait") == 0) {
		run_until_quiet(atoi(w[1]));
	} else if (strcmp(w[0], "stop") == 0) {
		event_base_loopbreak(base);
	} else if (strcmp(w[0], "on") == 0) {
		struct slot *slot = &slots[atoi(w[1])];
		if (slot->action_count < ACTIONS) {
			struct action *action = &slot->actions[slot->action_count++];
			action->kind = w[2][0];
			/* "on B K " and what follows. */
			action->op = strdup(op + 7);
		}
	} else if (strcmp(w[0], "always") == 0) {
		char **always = always_of(&slots[atoi(w[1])], w[2][0]);
		free(*always);
		/* "always B K " and what follows. */
		*always = strdup(op + 11);
	} else if (strcmp(w[0], "sock") == 0 || strcmp(w[0], "nofd") == 0 || strcmp(w[0], "duo") == 0 ||
	    strcmp(w[0], "pair") == 0 || strcmp(w[0], "filter") == 0) {
		make(w);
	} else if (strcmp(w[0], "accept") == 0) {
		do_accept(atoi(w[1]));
	} else if (w[0][0] == 'p' && (strcmp(w[0], "pwrite") == 0 || strcmp(w[0], "pread") == 0 ||
	    strcmp(w[0], "pshut") == 0 || strcmp(w[0], "pclose") == 0)) {
		peer_op(w);
	} else {
		bev_op(w);
	}
}

static void listeners(void)
{
	socklen_t len = sizeof tcp_addr;
	unix_addr.sun_family = nounix_addr.sun_family = AF_UNIX;
	snprintf(unix_addr.sun_path + 1, sizeof unix_addr.sun_path - 1, "evring-peer-%d", getpid());
	snprintf(nounix_addr.sun_path + 1, sizeof nounix_addr.sun_path - 1, "evring-none-%d", getpid());
	tcp_addr.sin_family = refused_addr.sin_family = AF_INET;
	tcp_addr.sin_addr.s_addr = refused_addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	listen_unix = socket(AF_UNIX, SOCK_STREAM, 0);
	listen_tcp = socket(AF_INET, SOCK_STREAM, 0);
	refused_tcp = socket(AF_INET, SOCK_STREAM, 0);
	if (bind(listen_unix, (struct sockaddr *)&unix_addr, sizeof unix_addr) != 0 ||
	    bind(listen_tcp, (struct sockaddr *)&tcp_addr, sizeof tcp_addr) != 0 ||
	    bind(refused_tcp, (struct sockaddr *)&refused_addr, sizeof refused_addr) != 0 ||
	    listen(listen_unix, 16) != 0 || listen(listen_tcp, 16) != 0) {
		perror("listeners");
		exit(1);
	}
	nonblocking(listen_unix);
	nonblocking(listen_tcp);
	getsockname(listen_tcp, (struct sockaddr *)&tcp_addr, &len);
	len = sizeof refused_addr;
	getsockname(refused_tcp, (struct sockaddr *)&refused_addr, &len);
}

static void begin_script(void)
{
	memset(slots, 0, sizeof slots);
	for (int id = 0; id < SLOTS; id++)
		slots[id].peer = -1;
	base = event_base_new();
}

/* Frees what the script has left: filters before what is under them. */
static void end_script(void)
{
	int fds[SLOTS];
	for (int id = SLOTS - 1; id >= 0; id--) {
		struct slot *slot = &slots[id];
		fds[id] = -1;
		if (slot->bev != NULL) {
			if (slot->under < 0 && slot->partner < 0 && !slot->closes)
				fds[id] = (int)bufferevent_getfd(slot->bev);
			free_bev(id);
		}
		while (slot->action_count > 0)
			free(slot->actions[--slot->action_count].op);
		for (int kind = 0; kind < 5; kind++)
			free(slot->always[kind]);
		close_peer(id);
	}
	event_base_loop(base, EVLOOP_NONBLOCK);
	event_base_free(base);
	for (int id = 0; id < SLOTS; id++) {
		if (fds[id] >= 0)
			close(fds[id]);
	}
	for (int fd; (fd = accept(listen_unix, NULL, NULL)) >= 0;)
		close(fd);
	for (int fd; (fd = accept(listen_tcp, NULL, NULL)) >= 0;)
		close(fd);
}

int main(void)
{
	char line[256];
	int begun = 0;
	signal(SIGPIPE, SIG_IGN);
	listeners();
	while (fgets(line, sizeof line, stdin) != NULL) {
		line[strcspn(line, "\n")] = '\0';
		if (!begun)
			begin_script();
		begun = 1;
		if (strcmp(line, "end") == 0) {
			strcpy(where, "gone");
			lines = RUN_LINES;
			end_script();
			begun = 0;
			puts("end");
			fflush(stdout);
			continue;
		}
		printf("> %s\n", line);
		lines = endless = 0;
		strcpy(where, "main");
		run_op(line);
	}
	return 0;
}
