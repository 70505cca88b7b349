package dockerapi

import (
	"github.com/moby/moby/api/types/checkpoint"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/plugin"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/api/types/volume"

	"github.com/belay-project/belay/internal/apicall"
)

// Query keys that several routes share, in the notation of newQuerySpec.
const (
	keysLogs   = "stdout! stderr! follow! timestamps! details! since until tail format"
	keysAttach = "stdin! stdout! stderr! logs! stream! detachKeys hijack-"
	keysBuild  = "dockerfile q! nocache! forcerm! rm! pull memswap# memory# cpushares# cpuperiod# cpuquota# cpusetcpus" +
		" cpusetmems cgroupparent networkmode t* extrahosts* securityopt* squash! target remote session buildid" +
		" platform outputs{ shmsize# isolation ulimits{ buildargs{ labels{ cachefrom{ version"
)

// actionImport is what POST /images/create does when it is given a source.
const actionImport = "image.import"

// routes is every endpoint that a daemon of API 1.24 to 1.56 serves, in the order in
// which the daemon's router tries them: that order decides, because names may hold
// slashes. The specification does not know them all; the daemon's routers do.
//
// Source: moby, daemon/command/daemon.go (buildRouters, newHTTPHandler) and
// daemon/server/router, and the API documents 1.24 to 1.56 for query keys.
var routes = []Route{
	// checkpoint: before the container router, or its DELETE would be masked
	{Method: "GET", Pattern: "/containers/{name:.*}/checkpoints", Action: "container.checkpoint.list", Kind: apicall.ResourceContainer, Experimental: true, query: "dir", facts: factsCheckpoint},
	{Method: "POST", Pattern: "/containers/{name:.*}/checkpoints", Action: "container.checkpoint.create", Kind: apicall.ResourceContainer, Experimental: true, body: jsonBody[checkpoint.CreateRequest](), facts: factsCheckpoint},
	{Method: "DELETE", Pattern: "/containers/{name}/checkpoints/{checkpoint}", Action: "container.checkpoint.delete", Kind: apicall.ResourceContainer, Experimental: true, query: "dir", facts: factsCheckpoint},
	// container
	{Method: "HEAD", Pattern: "/containers/{name:.*}/archive", Action: "container.copy.stat", Operation: "ContainerArchiveInfo", Kind: apicall.ResourceContainer, query: "path", facts: factsArchive},
	{Method: "GET", Pattern: "/containers/json", Action: "container.list", Operation: "ContainerList", Kind: apicall.ResourceContainer, query: "all! limit# size! filters{ since before trunc_cmd-"},
	{Method: "GET", Pattern: "/containers/{name:.*}/export", Action: "container.export", Operation: "ContainerExport", Kind: apicall.ResourceContainer, Stream: ResponseBody},
	{Method: "GET", Pattern: "/containers/{name:.*}/changes", Action: "container.diff", Operation: "ContainerChanges", Kind: apicall.ResourceContainer},
	{Method: "GET", Pattern: "/containers/{name:.*}/json", Action: "container.inspect", Operation: "ContainerInspect", Kind: apicall.ResourceContainer, query: "size!"},
	{Method: "GET", Pattern: "/containers/{name:.*}/top", Action: "container.top", Operation: "ContainerTop", Kind: apicall.ResourceContainer, query: "ps_args", facts: factsTop},
	{Method: "GET", Pattern: "/containers/{name:.*}/logs", Action: "container.logs", Operation: "ContainerLogs", Kind: apicall.ResourceContainer, Stream: ResponseBody, query: keysLogs},
	{Method: "GET", Pattern: "/containers/{name:.*}/stats", Action: "container.stats", Operation: "ContainerStats", Kind: apicall.ResourceContainer, Stream: ResponseBody, query: "stream! one-shot!"},
	{Method: "GET", Pattern: "/containers/{name:.*}/attach/ws", Action: "container.attach", Operation: "ContainerAttachWebsocket", Kind: apicall.ResourceContainer, Stream: WebSocket, query: keysAttach, facts: factsAttach},
	{Method: "GET", Pattern: "/exec/{id:.*}/json", Action: "container.exec.inspect", Operation: "ExecInspect", Kind: apicall.ResourceExec},
	{Method: "GET", Pattern: "/containers/{name:.*}/archive", Action: "container.copy.out", Operation: "ContainerArchive", Kind: apicall.ResourceContainer, Stream: ResponseBody, query: "path", facts: factsArchive},
	{Method: "POST", Pattern: "/containers/create", Action: "container.create", Operation: "ContainerCreate", Kind: apicall.ResourceContainer, query: "name platform", body: jsonBody[container.CreateRequest](), facts: factsCreate},
	{Method: "POST", Pattern: "/containers/{name:.*}/kill", Action: "container.kill", Operation: "ContainerKill", Kind: apicall.ResourceContainer, query: "signal"},
	{Method: "POST", Pattern: "/containers/{name:.*}/pause", Action: "container.pause", Operation: "ContainerPause", Kind: apicall.ResourceContainer},
	{Method: "POST", Pattern: "/containers/{name:.*}/unpause", Action: "container.unpause", Operation: "ContainerUnpause", Kind: apicall.ResourceContainer},
	{Method: "POST", Pattern: "/containers/{name:.*}/restart", Action: "container.restart", Operation: "ContainerRestart", Kind: apicall.ResourceContainer, query: "t# signal"},
	{Method: "POST", Pattern: "/containers/{name:.*}/start", Action: "container.start", Operation: "ContainerStart", Kind: apicall.ResourceContainer, query: "detachKeys checkpoint checkpoint-dir", facts: factsStart},
	{Method: "POST", Pattern: "/containers/{name:.*}/stop", Action: "container.stop", Operation: "ContainerStop", Kind: apicall.ResourceContainer, query: "t# signal"},
	{Method: "POST", Pattern: "/containers/{name:.*}/wait", Action: "container.wait", Operation: "ContainerWait", Kind: apicall.ResourceContainer, Stream: ResponseBody, query: "condition"},
	{Method: "POST", Pattern: "/containers/{name:.*}/resize", Action: "container.resize", Operation: "ContainerResize", Kind: apicall.ResourceContainer, query: "h# w#"},
	{Method: "POST", Pattern: "/containers/{name:.*}/attach", Action: "container.attach", Operation: "ContainerAttach", Kind: apicall.ResourceContainer, Stream: Hijack, query: keysAttach, facts: factsAttach},
	{Method: "POST", Pattern: "/containers/{name:.*}/exec", Action: "container.exec", Operation: "ContainerExec", Kind: apicall.ResourceContainer, body: jsonBody[container.ExecCreateRequest](), facts: factsExecCreate},
	{Method: "POST", Pattern: "/exec/{name:.*}/start", Action: "container.exec.start", Operation: "ExecStart", Kind: apicall.ResourceExec, Stream: Hijack, body: optionalBody[container.ExecStartRequest](), facts: factsExecStart},
	{Method: "POST", Pattern: "/exec/{name:.*}/resize", Action: "container.exec.resize", Operation: "ExecResize", Kind: apicall.ResourceExec, query: "h# w#"},
	{Method: "POST", Pattern: "/containers/{name:.*}/rename", Action: "container.rename", Operation: "ContainerRename", Kind: apicall.ResourceContainer, query: "name", facts: factsRename},
	{Method: "POST", Pattern: "/containers/{name:.*}/update", Action: "container.update", Operation: "ContainerUpdate", Kind: apicall.ResourceContainer, body: jsonBody[container.UpdateConfig](), facts: factsUpdate},
	{Method: "POST", Pattern: "/containers/prune", Action: "container.prune", Operation: "ContainerPrune", Kind: apicall.ResourceContainer, query: "filters{", facts: factsPrune},
	{Method: "POST", Pattern: "/commit", Action: "image.commit", Operation: "ImageCommit", Kind: apicall.ResourceImage, query: "container repo tag comment author pause! changes*", body: optionalBody[container.Config](), facts: factsCommit},
	{Method: "PUT", Pattern: "/containers/{name:.*}/archive", Action: "container.copy.in", Operation: "PutContainerArchive", Kind: apicall.ResourceContainer, Stream: RequestBody, query: "path noOverwriteDirNonDir! copyUIDGID!", body: tarBody, facts: factsArchive},
	{Method: "DELETE", Pattern: "/containers/{name:.*}", Action: "container.delete", Operation: "ContainerDelete", Kind: apicall.ResourceContainer, query: "v! force! link!"},
	// image
	{Method: "GET", Pattern: "/images/json", Action: "image.list", Operation: "ImageList", Kind: apicall.ResourceImage, query: "all! filters{ filter digests! shared-size! manifests! identity! only_ids-"},
	{Method: "GET", Pattern: "/images/search", Action: "image.search", Operation: "ImageSearch", Kind: apicall.ResourceImage, query: "term limit# filters{", facts: factsSearch},
	{Method: "GET", Pattern: "/images/get", Action: "image.save", Operation: "ImageGetAll", Kind: apicall.ResourceImage, Stream: ResponseBody, query: "names* platform{*", facts: factsSave},
	{Method: "GET", Pattern: "/images/{name:.*}/get", Action: "image.save", Operation: "ImageGet", Kind: apicall.ResourceImage, Stream: ResponseBody, query: "platform{*"},
	{Method: "GET", Pattern: "/images/{name:.*}/history", Action: "image.history", Operation: "ImageHistory", Kind: apicall.ResourceImage, query: "platform{"},
	{Method: "GET", Pattern: "/images/{name:.*}/json", Action: "image.inspect", Operation: "ImageInspect", Kind: apicall.ResourceImage, query: "manifests! platform{"},
	{Method: "GET", Pattern: "/images/{name:.*}/attestations", Action: "image.attestations", Operation: "ImageAttestations", Kind: apicall.ResourceImage, query: "platform{* type* statement!"},
	{Method: "POST", Pattern: "/images/load", Action: "image.load", Operation: "ImageLoad", Kind: apicall.ResourceImage, Stream: Both, query: "quiet! platform{*", body: tarBody},
	{Method: "POST", Pattern: "/images/create", Action: "image.pull", Operation: "ImageCreate", Kind: apicall.ResourceImage, Stream: Both, query: "fromImage fromSrc repo tag message changes* platform", body: tarBody, facts: factsImageCreate},
	{Method: "POST", Pattern: "/images/{name:.*}/push", Action: "image.push", Operation: "ImagePush", Kind: apicall.ResourceImage, Stream: ResponseBody, query: "tag platform{", facts: factsPush},
	{Method: "POST", Pattern: "/images/{name:.*}/tag", Action: "image.tag", Operation: "ImageTag", Kind: apicall.ResourceImage, query: "repo tag force!", facts: factsTag},
	{Method: "POST", Pattern: "/images/prune", Action: "image.prune", Operation: "ImagePrune", Kind: apicall.ResourceImage, query: "filters{", facts: factsPrune},
	{Method: "DELETE", Pattern: "/images/{name:.*}", Action: "image.delete", Operation: "ImageDelete", Kind: apicall.ResourceImage, query: "force! noprune! platforms{*"},
	// system
	{Method: "OPTIONS", Pattern: "/{anyroute:.*}", Action: "system.options", Kind: apicall.ResourceSystem},
	{Method: "GET", Pattern: "/_ping", Action: "system.ping", Operation: "SystemPing", Kind: apicall.ResourceSystem},
	{Method: "HEAD", Pattern: "/_ping", Action: "system.ping", Operation: "SystemPingHead", Kind: apicall.ResourceSystem},
	{Method: "GET", Pattern: "/events", Action: "system.events", Operation: "SystemEvents", Kind: apicall.ResourceSystem, Stream: ResponseBody, query: "since until filters{"},
	{Method: "GET", Pattern: "/info", Action: "system.info", Operation: "SystemInfo", Kind: apicall.ResourceSystem},
	{Method: "GET", Pattern: "/version", Action: "system.version", Operation: "SystemVersion", Kind: apicall.ResourceSystem},
	{Method: "GET", Pattern: "/system/df", Action: "system.df", Operation: "SystemDataUsage", Kind: apicall.ResourceSystem, query: "type* verbose!"},
	{Method: "POST", Pattern: "/auth", Action: "registry.login", Operation: "SystemAuth", Kind: apicall.ResourceSystem, body: jsonBody[registry.AuthConfig](), facts: factsAuth},
	// volume
	{Method: "GET", Pattern: "/volumes", Action: "volume.list", Operation: "VolumeList", Kind: apicall.ResourceVolume, query: "filters{"},
	{Method: "GET", Pattern: "/volumes/{name:.*}", Action: "volume.inspect", Operation: "VolumeInspect", Kind: apicall.ResourceVolume},
	{Method: "POST", Pattern: "/volumes/create", Action: "volume.create", Operation: "VolumeCreate", Kind: apicall.ResourceVolume, body: jsonBody[volume.CreateRequest](), facts: factsVolumeCreate},
	{Method: "POST", Pattern: "/volumes/prune", Action: "volume.prune", Operation: "VolumePrune", Kind: apicall.ResourceVolume, query: "filters{", facts: factsPrune},
	{Method: "PUT", Pattern: "/volumes/{name:.*}", Action: "volume.update", Operation: "VolumeUpdate", Kind: apicall.ResourceVolume, query: "version#", body: jsonBody[volumeUpdate](), facts: factsVolumeUpdate},
	{Method: "DELETE", Pattern: "/volumes/{name:.*}", Action: "volume.delete", Operation: "VolumeDelete", Kind: apicall.ResourceVolume, query: "force!"},
	// build
	{Method: "POST", Pattern: "/build", Action: "image.build", Operation: "ImageBuild", Kind: apicall.ResourceBuild, Stream: Both, query: keysBuild, body: tarBody, facts: factsBuild},
	{Method: "POST", Pattern: "/build/prune", Action: "build.prune", Operation: "BuildPrune", Kind: apicall.ResourceBuild, query: "keep-storage# all! filters{ reserved-space# max-used-space# min-free-space#", facts: factsPrune},
	{Method: "POST", Pattern: "/build/cancel", Action: "build.cancel", Kind: apicall.ResourceBuild, query: "id", facts: factsBuildCancel},
	// session
	{Method: "POST", Pattern: "/session", Action: "build.session", Operation: "Session", Kind: apicall.ResourceSession, Stream: Upgrade},
	// swarm
	{Method: "POST", Pattern: "/swarm/init", Action: "swarm.init", Operation: "SwarmInit", Kind: apicall.ResourceSwarm, body: jsonBody[swarm.InitRequest](), facts: factsSwarmInit},
	{Method: "POST", Pattern: "/swarm/join", Action: "swarm.join", Operation: "SwarmJoin", Kind: apicall.ResourceSwarm, body: jsonBody[swarm.JoinRequest](), facts: factsSwarmJoin},
	{Method: "POST", Pattern: "/swarm/leave", Action: "swarm.leave", Operation: "SwarmLeave", Kind: apicall.ResourceSwarm, query: "force!"},
	{Method: "GET", Pattern: "/swarm", Action: "swarm.inspect", Operation: "SwarmInspect", Kind: apicall.ResourceSwarm},
	{Method: "GET", Pattern: "/swarm/unlockkey", Action: "swarm.unlockkey.read", Operation: "SwarmUnlockkey", Kind: apicall.ResourceSwarm},
	{Method: "POST", Pattern: "/swarm/update", Action: "swarm.update", Operation: "SwarmUpdate", Kind: apicall.ResourceSwarm, query: "version# rotateWorkerToken! rotateManagerToken! rotateManagerUnlockKey!", body: jsonBody[swarm.Spec](), facts: factsSwarmUpdate},
	{Method: "POST", Pattern: "/swarm/unlock", Action: "swarm.unlock", Operation: "SwarmUnlock", Kind: apicall.ResourceSwarm, body: jsonBody[swarm.UnlockRequest]()},
	{Method: "GET", Pattern: "/services", Action: "service.list", Operation: "ServiceList", Kind: apicall.ResourceService, query: "filters{ status!"},
	{Method: "GET", Pattern: "/services/{id}", Action: "service.inspect", Operation: "ServiceInspect", Kind: apicall.ResourceService, query: "insertDefaults!"},
	{Method: "POST", Pattern: "/services/create", Action: "service.create", Operation: "ServiceCreate", Kind: apicall.ResourceService, body: jsonBody[serviceSpec](), facts: factsService},
	{Method: "POST", Pattern: "/services/{id}/update", Action: "service.update", Operation: "ServiceUpdate", Kind: apicall.ResourceService, query: "version# registryAuthFrom rollback", body: jsonBody[serviceSpec](), facts: factsService},
	{Method: "DELETE", Pattern: "/services/{id}", Action: "service.delete", Operation: "ServiceDelete", Kind: apicall.ResourceService},
	{Method: "GET", Pattern: "/services/{id}/logs", Action: "service.logs", Operation: "ServiceLogs", Kind: apicall.ResourceService, Stream: ResponseBody, query: keysLogs},
	{Method: "GET", Pattern: "/nodes", Action: "node.list", Operation: "NodeList", Kind: apicall.ResourceNode, query: "filters{"},
	{Method: "GET", Pattern: "/nodes/{id}", Action: "node.inspect", Operation: "NodeInspect", Kind: apicall.ResourceNode},
	{Method: "DELETE", Pattern: "/nodes/{id}", Action: "node.delete", Operation: "NodeDelete", Kind: apicall.ResourceNode, query: "force!"},
	{Method: "POST", Pattern: "/nodes/{id}/update", Action: "node.update", Operation: "NodeUpdate", Kind: apicall.ResourceNode, query: "version#", body: jsonBody[swarm.NodeSpec](), facts: factsNodeUpdate},
	{Method: "GET", Pattern: "/tasks", Action: "task.list", Operation: "TaskList", Kind: apicall.ResourceTask, query: "filters{"},
	{Method: "GET", Pattern: "/tasks/{id}", Action: "task.inspect", Operation: "TaskInspect", Kind: apicall.ResourceTask},
	{Method: "GET", Pattern: "/tasks/{id}/logs", Action: "task.logs", Operation: "TaskLogs", Kind: apicall.ResourceTask, Stream: ResponseBody, query: keysLogs},
	{Method: "GET", Pattern: "/secrets", Action: "secret.list", Operation: "SecretList", Kind: apicall.ResourceSecret, query: "filters{"},
	{Method: "POST", Pattern: "/secrets/create", Action: "secret.create", Operation: "SecretCreate", Kind: apicall.ResourceSecret, body: jsonBody[swarm.SecretSpec](), facts: factsSecret},
	{Method: "DELETE", Pattern: "/secrets/{id}", Action: "secret.delete", Operation: "SecretDelete", Kind: apicall.ResourceSecret},
	{Method: "GET", Pattern: "/secrets/{id}", Action: "secret.inspect", Operation: "SecretInspect", Kind: apicall.ResourceSecret},
	{Method: "POST", Pattern: "/secrets/{id}/update", Action: "secret.update", Operation: "SecretUpdate", Kind: apicall.ResourceSecret, query: "version#", body: jsonBody[swarm.SecretSpec](), facts: factsSecret},
	{Method: "GET", Pattern: "/configs", Action: "config.list", Operation: "ConfigList", Kind: apicall.ResourceConfig, query: "filters{"},
	{Method: "POST", Pattern: "/configs/create", Action: "config.create", Operation: "ConfigCreate", Kind: apicall.ResourceConfig, body: jsonBody[swarm.ConfigSpec](), facts: factsConfig},
	{Method: "DELETE", Pattern: "/configs/{id}", Action: "config.delete", Operation: "ConfigDelete", Kind: apicall.ResourceConfig},
	{Method: "GET", Pattern: "/configs/{id}", Action: "config.inspect", Operation: "ConfigInspect", Kind: apicall.ResourceConfig},
	{Method: "POST", Pattern: "/configs/{id}/update", Action: "config.update", Operation: "ConfigUpdate", Kind: apicall.ResourceConfig, query: "version#", body: jsonBody[swarm.ConfigSpec](), facts: factsConfig},
	// plugin
	{Method: "GET", Pattern: "/plugins", Action: "plugin.list", Operation: "PluginList", Kind: apicall.ResourcePlugin, query: "filters{"},
	{Method: "GET", Pattern: "/plugins/{name:.*}/json", Action: "plugin.inspect", Operation: "PluginInspect", Kind: apicall.ResourcePlugin},
	{Method: "GET", Pattern: "/plugins/privileges", Action: "plugin.privileges", Operation: "GetPluginPrivileges", Kind: apicall.ResourcePlugin, query: "remote name", facts: factsPluginRemote},
	{Method: "DELETE", Pattern: "/plugins/{name:.*}", Action: "plugin.delete", Operation: "PluginDelete", Kind: apicall.ResourcePlugin, query: "force!"},
	{Method: "POST", Pattern: "/plugins/{name:.*}/enable", Action: "plugin.enable", Operation: "PluginEnable", Kind: apicall.ResourcePlugin, query: "timeout#"},
	{Method: "POST", Pattern: "/plugins/{name:.*}/disable", Action: "plugin.disable", Operation: "PluginDisable", Kind: apicall.ResourcePlugin, query: "force!"},
	{Method: "POST", Pattern: "/plugins/pull", Action: "plugin.install", Operation: "PluginPull", Kind: apicall.ResourcePlugin, Stream: ResponseBody, query: "remote name", body: jsonBody[plugin.Privileges](), facts: factsPluginRemote},
	{Method: "POST", Pattern: "/plugins/{name:.*}/push", Action: "plugin.push", Operation: "PluginPush", Kind: apicall.ResourcePlugin, Stream: ResponseBody, facts: factsPluginPush},
	{Method: "POST", Pattern: "/plugins/{name:.*}/upgrade", Action: "plugin.upgrade", Operation: "PluginUpgrade", Kind: apicall.ResourcePlugin, Stream: ResponseBody, query: "remote", body: jsonBody[plugin.Privileges](), facts: factsPluginRemote},
	{Method: "POST", Pattern: "/plugins/{name:.*}/set", Action: "plugin.set", Operation: "PluginSet", Kind: apicall.ResourcePlugin, body: jsonBody[[]string](), facts: factsPluginSet},
	{Method: "POST", Pattern: "/plugins/create", Action: "plugin.create", Operation: "PluginCreate", Kind: apicall.ResourcePlugin, Stream: RequestBody, query: "name", body: tarBody, facts: factsPluginCreate},
	// distribution
	{Method: "GET", Pattern: "/distribution/{name:.*}/json", Action: "image.distribution", Operation: "DistributionInspect", Kind: apicall.ResourceDistribution, facts: factsDistribution},
	// network
	{Method: "GET", Pattern: "/networks", Action: "network.list", Operation: "NetworkList", Kind: apicall.ResourceNetwork, query: "filters{"},
	{Method: "GET", Pattern: "/networks/", Action: "network.list", Kind: apicall.ResourceNetwork, query: "filters{"},
	{Method: "GET", Pattern: "/networks/{id:.+}", Action: "network.inspect", Operation: "NetworkInspect", Kind: apicall.ResourceNetwork, query: "verbose! scope"},
	{Method: "POST", Pattern: "/networks/create", Action: "network.create", Operation: "NetworkCreate", Kind: apicall.ResourceNetwork, body: jsonBody[network.CreateRequest](), facts: factsNetworkCreate},
	{Method: "POST", Pattern: "/networks/{id:.*}/connect", Action: "network.connect", Operation: "NetworkConnect", Kind: apicall.ResourceNetwork, body: jsonBody[network.ConnectRequest](), facts: factsNetworkConnect},
	{Method: "POST", Pattern: "/networks/{id:.*}/disconnect", Action: "network.disconnect", Operation: "NetworkDisconnect", Kind: apicall.ResourceNetwork, body: jsonBody[network.DisconnectRequest](), facts: factsNetworkDisconnect},
	{Method: "POST", Pattern: "/networks/prune", Action: "network.prune", Operation: "NetworkPrune", Kind: apicall.ResourceNetwork, query: "filters{", facts: factsPrune},
	{Method: "DELETE", Pattern: "/networks/{id:.*}", Action: "network.delete", Operation: "NetworkDelete", Kind: apicall.ResourceNetwork},
	// debug
	{Method: "GET", Pattern: "/debug/vars", Action: "system.debug", Kind: apicall.ResourceSystem},
	{Method: "GET", Pattern: "/debug/pprof/", Action: "system.debug", Kind: apicall.ResourceSystem},
	{Method: "GET", Pattern: "/debug/pprof/cmdline", Action: "system.debug", Kind: apicall.ResourceSystem},
	{Method: "GET", Pattern: "/debug/pprof/profile", Action: "system.debug", Kind: apicall.ResourceSystem, Stream: ResponseBody, query: "seconds#"},
	{Method: "GET", Pattern: "/debug/pprof/symbol", Action: "system.debug", Kind: apicall.ResourceSystem},
	{Method: "GET", Pattern: "/debug/pprof/trace", Action: "system.debug", Kind: apicall.ResourceSystem, Stream: ResponseBody, query: "seconds#"},
	{Method: "GET", Pattern: "/debug/pprof/{name}", Action: "system.debug", Kind: apicall.ResourceSystem, Stream: ResponseBody, query: "debug# gc# seconds#"},
	// grpc
	{Method: "POST", Pattern: "/grpc", Action: "build.grpc", Kind: apicall.ResourceBuild, Stream: Upgrade},
	// BuildKit on native HTTP/2: served before the router
	{Method: MethodGRPC, Pattern: "/moby.buildkit.v1.Control/Solve", Action: "build.grpc.solve", Kind: apicall.ResourceBuild, Stream: Both},
	{Method: MethodGRPC, Pattern: "/moby.buildkit.v1.frontend.LLBBridge/Solve", Action: "build.grpc.solve", Kind: apicall.ResourceBuild, Stream: Both},
	{Method: MethodGRPC, Pattern: "/moby.buildkit.v1.frontend.LLBBridge/ResolveImageConfig", Action: "build.grpc.resolve", Kind: apicall.ResourceBuild, Stream: Both},
	{Method: MethodGRPC, Pattern: "/moby.buildkit.v1.frontend.LLBBridge/ResolveSourceMeta", Action: "build.grpc.resolve", Kind: apicall.ResourceBuild, Stream: Both},
	{Method: MethodGRPC, Pattern: "/moby.buildkit.v1.Control/Status", Action: "build.grpc.status", Kind: apicall.ResourceBuild, Stream: Both},
	{Method: MethodGRPC, Pattern: "/moby.buildkit.v1.Control/Session", Action: "build.grpc.session", Kind: apicall.ResourceBuild, Stream: Both},
	{Method: MethodGRPC, Pattern: "/moby.buildkit.v1.Control/Prune", Action: "build.grpc.prune", Kind: apicall.ResourceBuild, Stream: Both},
	{Method: MethodGRPC, Pattern: "/moby.buildkit.v1.Control/DiskUsage", Action: "build.grpc.diskUsage", Kind: apicall.ResourceBuild, Stream: Both},
	{Method: MethodGRPC, Pattern: "/moby.buildkit.v1.Control/ListWorkers", Action: "build.grpc.listWorkers", Kind: apicall.ResourceBuild, Stream: Both},
	{Method: MethodGRPC, Pattern: "/moby.buildkit.v1.Control/Info", Action: "build.grpc.info", Kind: apicall.ResourceBuild, Stream: Both},
	{Method: MethodGRPC, Pattern: "/moby.buildkit.v1.Control/ListenBuildHistory", Action: "build.grpc.listenBuildHistory", Kind: apicall.ResourceBuild, Stream: Both},
	{Method: MethodGRPC, Pattern: "/moby.buildkit.v1.Control/UpdateBuildHistory", Action: "build.grpc.updateBuildHistory", Kind: apicall.ResourceBuild, Stream: Both},
}
