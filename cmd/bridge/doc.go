// Bridge makes network speakers that speak Sendspin part of a home: it finds
// them over mDNS, keeps one supervised connection to each, groups them, and
// shows each one over MQTT, ready for Home Assistant.
//
// Usage:
//
//	bridge [COMMAND] [flags]
//
// Without a command it runs the bridge. "bridge help" lists the commands and
// "bridge COMMAND --help" explains one.
//
// Exit status: 0 success, 1 failure, 2 wrong usage or wrong configuration.
// SIGINT and SIGTERM end it orderly; a second signal ends it at once.
package main
