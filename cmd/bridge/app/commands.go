package app

// commands lists every subcommand in the order of the help text.
func commands() []command {
	return []command{
		runCommand(),
		demoCommand(),
		playerCommand(),
		scanCommand(),
		doctorCommand(),
		statusCommand(),
		volumeCommand(),
		muteCommand(),
		groupCommand(),
		playCommand(),
		announceCommand(),
		stopCommand(),
		pairCommand(),
		healthcheckCommand(),
		versionCommand(),
	}
}
