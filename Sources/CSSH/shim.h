#include <libssh/libssh.h>
#include <libssh/callbacks.h>
#include <libssh/server.h> // ssh_send_keepalive works from a client, too
#include <libssh/sftp.h>
