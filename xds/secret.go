package xds

import (
	"fmt"
	"os"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"github.com/countersign/countersign/extproc/config"
)

// rootFiles are where the distributions keep the roots they trust: Debian, Fedora, Alpine, SUSE.
var rootFiles = []string{
	"/etc/ssl/certs/ca-certificates.crt",
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
	"/etc/ssl/cert.pem",
	"/etc/ssl/ca-bundle.pem",
}

// SystemRoots is the file of the system's trusted roots. Envoy reads it, so it is the file of this machine only as long as
// Envoy runs here; where none is found it is Debian's.
func SystemRoots() string {
	for _, name := range rootFiles {
		if _, err := os.Stat(name); err == nil {
			return name
		}
	}
	return rootFiles[0]
}

// commonTLS is TLS as it is spoken here, in either direction.
func (b *Builder) commonTLS(alpn ...string) *tlsv3.CommonTlsContext {
	return &tlsv3.CommonTlsContext{
		TlsParams: &tlsv3.TlsParameters{
			TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_2,
			TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_3,
		},
		AlpnProtocols: alpn,
	}
}

// certificate has t show the certificate, as a secret of that name or, in a static file, by file name.
func (b *Builder) certificate(t *tlsv3.CommonTlsContext, name string, chain, key config.Path) {
	if b.static {
		t.TlsCertificates = []*tlsv3.TlsCertificate{{CertificateChain: fileSource(chain), PrivateKey: fileSource(key)}}
		return
	}
	t.TlsCertificateSdsSecretConfigs = []*tlsv3.SdsSecretConfig{{Name: name, SdsConfig: ads()}}
	b.secret(&tlsv3.Secret{Name: name, Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
		CertificateChain: b.content(chain),
		PrivateKey:       b.content(key),
	}}})
}

// authority has t verify the other end by the roots in that file, and by its names when names are given.
func (b *Builder) authority(t *tlsv3.CommonTlsContext, name string, file config.Path, names []*tlsv3.SubjectAltNameMatcher) {
	if b.static {
		t.ValidationContextType = &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
			TrustedCa: fileSource(file), MatchTypedSubjectAltNames: names,
		}}
		return
	}
	t.ValidationContextType = &tlsv3.CommonTlsContext_ValidationContextSdsSecretConfig{
		ValidationContextSdsSecretConfig: &tlsv3.SdsSecretConfig{Name: name, SdsConfig: ads()},
	}
	b.secret(&tlsv3.Secret{Name: name, Type: &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
		TrustedCa: b.content(file), MatchTypedSubjectAltNames: names,
	}}})
}

func (b *Builder) secret(s *tlsv3.Secret) {
	b.valid(s)
	b.out.secrets = append(b.out.secrets, s)
}

// content is what is in the file now. Envoy may run elsewhere, so it is sent rather than named.
func (b *Builder) content(file config.Path) *corev3.DataSource {
	text, err := os.ReadFile(string(file))
	if err != nil {
		b.Fail(fmt.Errorf("read a certificate or key: %w", err))
	}
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: text}}
}

func fileSource(file config.Path) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_Filename{Filename: string(file)}}
}

func (b *Builder) transportSocket(context Message) *corev3.TransportSocket {
	return &corev3.TransportSocket{
		Name:       "envoy.transport_sockets.tls",
		ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: b.Pack(context)},
	}
}

// ads says that a resource comes over the stream that Envoy has already.
func ads() *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ResourceApiVersion:    corev3.ApiVersion_V3,
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
	}
}
