// Package charttest holds the Helm chart in deploy/helm to Helm itself and to the types of
// Kubernetes. It is a module of its own, so that Belay's stays without their dependencies.
package charttest
