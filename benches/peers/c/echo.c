/* An echo server on libevent's bufferevents: input moves to output by reference. */
#include "peer.h"

static void on_read(struct bufferevent *bev, void *ctx)
{
	(void)ctx;
	bufferevent_write_buffer(bev, bufferevent_get_input(bev));
}

static void on_drained(struct bufferevent *bev, void *ctx)
{
	(void)ctx;
	bufferevent_free(bev);
}

static void on_event(struct bufferevent *bev, short what, void *ctx)
{
	(void)ctx;
	if ((what & BEV_EVENT_EOF) &&
	    evbuffer_get_length(bufferevent_get_output(bev)) > 0) {
		/* The client is done sending; what it has not read yet is still owed to it. */
		bufferevent_setcb(bev, NULL, on_drained, on_event, NULL);
		return;
	}
	bufferevent_free(bev);
}

static void on_accept(struct evconnlistener *listener, evutil_socket_t fd,
		      struct sockaddr *addr, int addr_len, void *ctx)
{
	struct event_base *base = ctx;
	struct bufferevent *bev;

	(void)listener;
	(void)addr;
	(void)addr_len;
	peer_nodelay(fd);
	bev = bufferevent_socket_new(base, fd, BEV_OPT_CLOSE_ON_FREE);
	if (!bev) {
		evutil_closesocket(fd);
		return;
	}
	bufferevent_setcb(bev, on_read, NULL, on_event, NULL);
	bufferevent_enable(bev, EV_READ | EV_WRITE);
}

int libevent_echo(int listen_fd)
{
	struct event_base *base = peer_base();

	return base ? peer_serve(base, listen_fd, on_accept) : 1;
}
