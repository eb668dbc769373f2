// cert-manager's controllers, its cainjector and its webhook, in one program.
//
// cert-manager's own programs are modules that are not published, so this starts the same controllers,
// as far as the tests need them: issuers, certificates and their requests, the injection of an
// authority into webhook configurations, and the webhook that reviews these objects.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/textlogger"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/cert-manager/cert-manager/internal/apis/config/shared"
	webhookconfig "github.com/cert-manager/cert-manager/internal/apis/config/webhook"
	"github.com/cert-manager/cert-manager/internal/webhook"
	"github.com/cert-manager/cert-manager/pkg/controller"
	"github.com/cert-manager/cert-manager/pkg/controller/cainjector"
	"github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/approver"
	"github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/ca"
	"github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/selfsigned"
	"github.com/cert-manager/cert-manager/pkg/controller/certificates/issuing"
	"github.com/cert-manager/cert-manager/pkg/controller/certificates/keymanager"
	"github.com/cert-manager/cert-manager/pkg/controller/certificates/readiness"
	"github.com/cert-manager/cert-manager/pkg/controller/certificates/requestmanager"
	"github.com/cert-manager/cert-manager/pkg/controller/certificates/revisionmanager"
	"github.com/cert-manager/cert-manager/pkg/controller/certificates/trigger"
	"github.com/cert-manager/cert-manager/pkg/controller/issuers"
	_ "github.com/cert-manager/cert-manager/pkg/issuer/ca"
	_ "github.com/cert-manager/cert-manager/pkg/issuer/selfsigned"
)

var names = []string{
	issuers.ControllerName,
	approver.ControllerName, ca.CRControllerName, selfsigned.CRControllerName,
	issuing.ControllerName, keymanager.ControllerName, readiness.ControllerName,
	requestmanager.ControllerName, revisionmanager.ControllerName, trigger.ControllerName,
}

func main() {
	log := textlogger.NewLogger(textlogger.NewConfig())
	ctrl.SetLogger(log)
	ctx, stop := signal.NotifyContext(klog.NewContext(context.Background(), log), syscall.SIGTERM)
	defer stop()

	factory, err := controller.NewContextFactory(ctx, controller.ContextOptions{
		Kubeconfig: os.Getenv("KUBECONFIG"), KubernetesAPIQPS: 50, KubernetesAPIBurst: 100,
		IssuerOptions: controller.IssuerOptions{ClusterResourceNamespace: "cert-manager"},
		CertificateOptions: controller.CertificateOptions{
			CertificateRequestMinimumBackoffDuration: time.Second,
			CertificateRequestMaximumBackoffDuration: time.Minute,
		},
	})
	check(err)
	kube, err := factory.Build()
	check(err)
	for _, name := range names {
		run, err := controller.Known()[name](factory)
		check(err)
		go func() { check(run.Run(2, ctx)) }()
	}
	kube.SharedInformerFactory.Start(ctx.Done())
	kube.KubeSharedInformerFactory.Start(ctx.Done())

	go serveWebhook(ctx, log)

	config := kube.RESTConfig
	manager, err := ctrl.NewManager(config, ctrl.Options{
		Scheme: kube.Scheme, Metrics: server.Options{BindAddress: "0"},
		// As cainjector has it: it reads Secrets one at a time.
		Client: client.Options{Cache: &client.CacheOptions{DisableFor: []client.Object{&corev1.Secret{}}}},
	})
	check(err)
	check(cainjector.RegisterAllInjectors(ctx, manager, cainjector.SetupOptions{
		EnableCertificatesDataSource: true,
		EnabledReconcilersFor: map[string]bool{
			cainjector.MutatingWebhookConfigurationName:   true,
			cainjector.ValidatingWebhookConfigurationName: true,
		},
	}))
	check(manager.Start(ctx))
}

// Its certificate is of an authority of its own, which the cainjector finds in a Secret.
func serveWebhook(ctx context.Context, log logr.Logger) {
	server, err := webhook.NewCertManagerWebhookServer(log, webhookconfig.WebhookConfiguration{
		KubeConfig: os.Getenv("KUBECONFIG"), SecurePort: 10260, HealthzPort: 10261, MetricsListenAddress: "0",
		TLSConfig: shared.TLSConfig{Dynamic: shared.DynamicServingConfig{
			SecretNamespace: "cert-manager", SecretName: "cert-manager-webhook-ca",
			DNSNames: []string{"localhost"}, LeafDuration: 24 * time.Hour,
		}},
	})
	check(err)
	check(server.Run(ctx))
}

func check(err error) {
	if err != nil {
		klog.ErrorS(err, "it ends")
		os.Exit(1)
	}
}
