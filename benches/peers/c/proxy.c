/*
 * A TCP proxy on libevent's bufferevents: a pair for each client, input moves to the other side's output by
 * reference, reading pauses when the other side's output passes a mark, half-close is carried through. Rate limits
 * hold on the clients' side.
 */
#include "peer.h"

/* A side stops being read when the other side holds this much unsent, and starts again at half of it. */
#define HIGH_MARK (512 * 1024)

struct side {
	struct bufferevent *bev;
	struct side *other;
	int eof;		/* nothing more will be read */
	int finished;		/* the other side's end has been passed on */
};

/* Bytes a tick in each direction, 0: no limit; the same layout as in libevent-proxy.rs. */
struct limits {
	size_t read;
	size_t write;
	size_t group_read;
	size_t group_write;
	unsigned tick_ms;
};

static struct sockaddr_storage upstream;
static int upstream_len;
static struct ev_token_bucket_cfg *each;
static struct bufferevent_rate_limit_group *all;

static void on_read(struct bufferevent *bev, void *ctx);
static void on_event(struct bufferevent *bev, short what, void *ctx);

static void pair_free(struct side *side)
{
	struct side *other = side->other;

	bufferevent_free(side->bev);
	bufferevent_free(other->bev);
	free(side);
	free(other);
}

/* `side`'s output is empty and `other` has ended: say so to the peer; drop the pair once both ways are over. */
static void finish(struct side *side)
{
	side->finished = 1;
	if (side->other->finished) {
		pair_free(side);
		return;
	}
	shutdown(bufferevent_getfd(side->bev), SHUT_WR);
}

static void on_drained(struct bufferevent *bev, void *ctx)
{
	struct side *side = ctx;

	if (evbuffer_get_length(bufferevent_get_output(bev)) > 0) {
		/* Down to the low mark, not empty: the other side may be read again. */
		bufferevent_enable(side->other->bev, EV_READ);
		return;
	}
	bufferevent_setwatermark(bev, EV_WRITE, 0, 0);
	bufferevent_setcb(bev, on_read, NULL, on_event, side);
	if (side->other->eof)
		finish(side);
	else
		bufferevent_enable(side->other->bev, EV_READ);
}

static void on_read(struct bufferevent *bev, void *ctx)
{
	struct side *side = ctx;
	struct bufferevent *to = side->other->bev;

	bufferevent_write_buffer(to, bufferevent_get_input(bev));
	if (evbuffer_get_length(bufferevent_get_output(to)) >= HIGH_MARK) {
		bufferevent_disable(bev, EV_READ);
		bufferevent_setwatermark(to, EV_WRITE, HIGH_MARK / 2, 0);
		bufferevent_setcb(to, on_read, on_drained, on_event, side->other);
	}
}

static void on_event(struct bufferevent *bev, short what, void *ctx)
{
	struct side *side = ctx;
	struct side *other = side->other;

	if (what & BEV_EVENT_CONNECTED) {
		peer_nodelay(bufferevent_getfd(bev));
		bufferevent_enable(other->bev, EV_READ);
		return;
	}
	if (!(what & BEV_EVENT_EOF)) {
		pair_free(side);
		return;
	}
	side->eof = 1;
	if (evbuffer_get_length(bufferevent_get_output(other->bev)) == 0) {
		finish(other);
		return;
	}
	bufferevent_setwatermark(other->bev, EV_WRITE, 0, 0);
	bufferevent_setcb(other->bev, on_read, on_drained, on_event, other);
}

static void on_accept(struct evconnlistener *listener, evutil_socket_t fd,
		      struct sockaddr *addr, int addr_len, void *ctx)
{
	struct event_base *base = ctx;
	struct side *client = calloc(1, sizeof(*client));
	struct side *server = calloc(1, sizeof(*server));

	(void)listener;
	(void)addr;
	(void)addr_len;
	if (!client || !server)
		abort();
	peer_nodelay(fd);
	client->bev = bufferevent_socket_new(base, fd, BEV_OPT_CLOSE_ON_FREE);
	server->bev = bufferevent_socket_new(base, -1, BEV_OPT_CLOSE_ON_FREE);
	if (!client->bev || !server->bev)
		abort();
	if ((each && bufferevent_set_rate_limit(client->bev, each) < 0) ||
	    (all && bufferevent_add_to_rate_limit_group(client->bev, all) < 0))
		abort();
	client->other = server;
	server->other = client;
	bufferevent_setcb(client->bev, on_read, NULL, on_event, client);
	bufferevent_setcb(server->bev, on_read, NULL, on_event, server);
	/* The client is read once the upstream has answered. */
	bufferevent_enable(client->bev, EV_WRITE);
	bufferevent_enable(server->bev, EV_READ | EV_WRITE);
	if (bufferevent_socket_connect(server->bev, (struct sockaddr *)&upstream, upstream_len) < 0)
		pair_free(client);
}

/* NULL without a limit. The burst is one tick's rate. */
static struct ev_token_bucket_cfg *bucket(size_t read, size_t write, unsigned tick_ms)
{
	struct timeval tick = { tick_ms / 1000, tick_ms % 1000 * 1000 };
	struct ev_token_bucket_cfg *cfg;

	if (!read && !write)
		return NULL;
	if (!read)
		read = EV_RATE_LIMIT_MAX;
	if (!write)
		write = EV_RATE_LIMIT_MAX;
	cfg = ev_token_bucket_cfg_new(read, read, write, write, &tick);
	if (!cfg)
		abort();
	return cfg;
}

int libevent_proxy(int listen_fd, const struct sockaddr *addr, unsigned addr_len,
		   const struct limits *limits)
{
	struct event_base *base = peer_base();
	struct ev_token_bucket_cfg *shared;

	if (!base || addr_len > sizeof(upstream))
		return 1;
	each = bucket(limits->read, limits->write, limits->tick_ms);
	shared = bucket(limits->group_read, limits->group_write, limits->tick_ms);
	if (shared) {
		all = bufferevent_rate_limit_group_new(base, shared);
		if (!all)
			return 1;
	}
	__builtin_memcpy(&upstream, addr, addr_len);
	upstream_len = (int)addr_len;
	return peer_serve(base, listen_fd, on_accept);
}
