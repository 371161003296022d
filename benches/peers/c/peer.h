/* What the libevent peers share: TCP_NODELAY, and a base built like a program that wants speed builds it. */
#ifndef EVRING_PEER_H
#define EVRING_PEER_H

#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/listener.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/socket.h>

static inline void peer_nodelay(evutil_socket_t fd)
{
	int on = 1;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

/* One thread, so no locks; monotonic time is read once a turn. */
static inline struct event_base *peer_base(void)
{
	struct event_config *cfg = event_config_new();
	struct event_base *base;

	if (!cfg)
		return NULL;
	event_config_set_flag(cfg, EVENT_BASE_FLAG_NOLOCK);
	base = event_base_new_with_config(cfg);
	event_config_free(cfg);
	return base;
}

/* Runs until the process is told to go. `listen_fd` is bound, listening and nonblocking. */
static inline int peer_serve(struct event_base *base, evutil_socket_t listen_fd,
			     evconnlistener_cb on_accept)
{
	struct evconnlistener *listener;

	/* Backlog 0: the socket listens already. */
	listener = evconnlistener_new(base, on_accept, base,
				      LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC,
				      0, listen_fd);
	if (!listener)
		return 1;
	return event_base_dispatch(base) < 0;
}

#endif
