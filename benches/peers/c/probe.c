/* Preprocessed by build.rs to find out whether libevent's headers are there. */
#include <event2/bufferevent.h>
#include <event2/listener.h>
