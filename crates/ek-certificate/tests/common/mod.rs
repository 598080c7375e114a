// SPDX-License-Identifier: Apache-2.0
//! Chains of CAs and EK certificates, made in memory.
#![allow(dead_code, unreachable_pub, reason = "each test takes what it needs")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use ek_certificate::EkTrust;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, date_time_ymd,
};
use test_support::scratch::Scratch;
use tpm_wire::public::Public;
use x509_cert::der::Decode;
use x509_cert::der::pem::{LineEnding, encode_string};

/// 2030-01-01.
pub const NOW: Duration = Duration::from_secs(1_893_456_000);

pub fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + NOW
}

pub struct Authority {
    pub der: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.use_authority_key_identifier_extension = true;
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2040, 1, 1));
    params
}

pub fn new_key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

impl Authority {
    pub fn root(name: &str) -> Self {
        Self::root_with(name, |_| {})
    }

    pub fn root_with(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let (mut params, key) = (ca_params(name), new_key());
        change(&mut params);
        Self { der: params.self_signed(&key).unwrap().der().to_vec(), issuer: Issuer::new(params, key) }
    }

    pub fn below(&self, name: &str) -> Self {
        self.below_with(name, |_| {})
    }

    pub fn below_with(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let (mut params, key) = (ca_params(name), new_key());
        change(&mut params);
        Self { der: params.signed_by(&key, &self.issuer).unwrap().der().to_vec(), issuer: Issuer::new(params, key) }
    }

    pub fn ek(&self) -> Vec<u8> {
        self.ek_with(|_| {})
    }

    /// An EK certificate as a vendor makes it, apart from a change.
    pub fn ek_with(&self, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::KeyAgreement];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 1])];
        params.custom_extensions = vec![alt_name(&[&MODEL])];
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2040, 1, 1));
        change(&mut params);
        params.signed_by(&new_key(), &self.issuer).unwrap().der().to_vec()
    }
}

/// An attribute of a name: last arc of 2.23.133.2, tag, value.
pub type Attribute<'a> = (u8, u8, &'a [u8]);

pub const UTF8: u8 = 0x0c;

pub const MODEL: [Attribute<'static>; 3] = [(1, UTF8, b"id:54455354"), (2, UTF8, b"Model 3"), (3, UTF8, b"id:0102")];

/// A critical subjectAltName with a directoryName of these RDNs.
pub fn alt_name(rdns: &[&[Attribute<'_>]]) -> CustomExtension {
    let name = element(0x30, &rdns.iter().flat_map(|rdn| rdn_of(rdn)).collect::<Vec<_>>());
    alt_name_of(&element(0xa4, &name))
}

/// A critical subjectAltName with these GeneralNames.
pub fn alt_name_of(names: &[u8]) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 17], element(0x30, names));
    extension.set_criticality(true);
    extension
}

fn rdn_of(attributes: &[Attribute<'_>]) -> Vec<u8> {
    let pair = |&(arc, tag, value): &Attribute<'_>| {
        let oid = element(0x06, &[0x67, 0x81, 0x05, 0x02, arc]);
        element(0x30, &[oid, element(tag, value)].concat())
    };
    element(0x31, &attributes.iter().flat_map(pair).collect::<Vec<_>>())
}

pub fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let len = u8::try_from(content.len()).unwrap();
    let header = if len < 0x80 { vec![tag, len] } else { vec![tag, 0x81, len] };
    [header.as_slice(), content].concat()
}

/// The P-256 EK a certificate is for, as a TPM would show it.
pub fn public_of(der: &[u8]) -> Public {
    let certificate = x509_cert::Certificate::from_der(der).unwrap();
    let bits = certificate.tbs_certificate.subject_public_key_info.subject_public_key;
    public(bits.raw_bytes())
}

fn public(key: &[u8]) -> Public {
    const ATTRIBUTES: &str = "000300b20000";
    const SYMMETRIC: &str = "000600800043";
    let text = format!("0023000b{ATTRIBUTES}{SYMMETRIC}001000030010{}", point(key));
    Public::decode_tpmt(&hex::decode(text).unwrap()).unwrap()
}

fn point(key: &[u8]) -> String {
    let (x, y) = key[1..].split_at(key.len() / 2);
    format!("{:04x}{}{:04x}{}", x.len(), hex::encode(x), y.len(), hex::encode(y))
}

pub fn pem(der: &[u8]) -> String {
    encode_string("CERTIFICATE", LineEnding::LF, der).unwrap()
}

/// A store of these certificates in one file.
pub fn trust(ders: &[&[u8]]) -> EkTrust {
    let scratch = Scratch::new("ek-trust").unwrap();
    let text: String = ders.iter().map(|der| pem(der)).collect();
    EkTrust::load(&scratch.write("store.pem", text).unwrap()).unwrap()
}

/// The EK of a recorded certificate.
pub fn recorded_ek(chain: &str) -> Public {
    Public::decode_tpmt(&std::fs::read(fixture(&format!("{chain}-ek.tpmt"))).unwrap()).unwrap()
}

pub fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}
