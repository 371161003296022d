#include <event2/bufferevent.h>
