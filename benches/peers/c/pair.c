/*
 * Round trips over a pair of libevent's bufferevents: one side writes a message, the other moves it back by
 * reference, the first reads it out and writes it again.
 */
#include "peer.h"
#include <string.h>
#include <time.h>

struct trips {
	char *message;
	size_t size;
	size_t left;
	int failed;
};

static void on_message(struct bufferevent *bev, void *ctx)
{
	(void)ctx;
	bufferevent_write_buffer(bev, bufferevent_get_input(bev));
}

static void on_answer(struct bufferevent *bev, void *ctx)
{
	struct trips *trips = ctx;

	if (evbuffer_get_length(bufferevent_get_input(bev)) < trips->size)
		return;
	if (bufferevent_read(bev, trips->message, trips->size) != trips->size)
		trips->failed = 1;
	if (--trips->left > 0)
		bufferevent_write(bev, trips->message, trips->size);
}

static unsigned long long thread_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return (unsigned long long)now.tv_sec * 1000000000ull + (unsigned long long)now.tv_nsec;
}

/* The thread's CPU time of each batch in nanoseconds, to `batch_ns`; 0, or 1 if something is wrong. */
int libevent_pair(size_t size, size_t round_trips, size_t batches, unsigned long long *batch_ns)
{
	struct event_base *base = peer_base();
	struct bufferevent *pair[2];
	struct trips trips = {malloc(size), size, 0, 0};
	size_t batch, at;

	if (!base || !trips.message || bufferevent_pair_new(base, 0, pair))
		return 1;
	for (at = 0; at < size; at++)
		trips.message[at] = (char)(at % 251);
	bufferevent_setcb(pair[0], on_answer, NULL, NULL, &trips);
	bufferevent_setcb(pair[1], on_message, NULL, NULL, NULL);
	bufferevent_enable(pair[0], EV_READ | EV_WRITE);
	bufferevent_enable(pair[1], EV_READ | EV_WRITE);
	for (batch = 0; batch < batches; batch++) {
		unsigned long long began = thread_ns();

		trips.left = round_trips;
		bufferevent_write(pair[0], trips.message, size);
		/* Ends when nothing is due any more. */
		event_base_dispatch(base);
		batch_ns[batch] = thread_ns() - began;
		for (at = 0; at < size; at++)
			trips.failed |= trips.message[at] != (char)(at % 251);
		if (trips.failed || trips.left > 0)
			return 1;
	}
	bufferevent_free(pair[0]);
	bufferevent_free(pair[1]);
	event_base_free(base);
	free(trips.message);
	return 0;
}
