// Package app is the bridge process as a value: commands, configuration,
// health and the wiring of every part. Nothing in it touches the process's own
// arguments, environment, signals or standard streams: they are handed in as a
// [Process], so that a test can hold a whole bridge, or two.
//
// Only [Load] reads flags, environment and files; all other packages get
// values.
package app
