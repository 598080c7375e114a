// SPDX-License-Identifier: Apache-2.0
//! Decoding of TPM2B_PUBLIC, the rules for an AK, SubjectPublicKeyInfo.

use tpm_wire::error::DecodeError;
use tpm_wire::hash::HashAlgorithm::{Sha256, Sha384, Sha512};
use tpm_wire::hash::SignatureScheme;
use tpm_wire::public::{AkPublic, Curve, Public, PublicKey};

use crate::build::{Key, PublicArea, sized};
use crate::fixtures::{P256, RSA2048, SPKI};

fn rsa() -> PublicArea {
    Key::rsa().public(Sha256)
}

fn ecc() -> PublicArea {
    Key::p256().public(Sha256)
}

#[test]
fn recorded_public_areas_are_decoded() {
    let ek = Public::decode_2b(RSA2048.ek).unwrap();
    assert_eq!(ek.object_attributes.0, 0x0003_00b2);
    assert_eq!(hex::encode(&ek.auth_policy), "837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa");
    let symmetric = ek.symmetric.unwrap();
    assert_eq!((symmetric.algorithm, symmetric.key_bits, symmetric.mode), (0x06, 128, 0x43));
    assert_eq!(ek.scheme, None);

    let ak = Public::decode_2b(RSA2048.ak).unwrap();
    assert_eq!(ak.object_attributes.0, 0x0005_0072);
    assert_eq!(ak.name_alg, Sha256);
    assert_eq!(ak.symmetric, None);
    let scheme = ak.scheme.unwrap();
    assert_eq!((scheme.scheme, scheme.hash), (SignatureScheme::RsaSsa, Sha256));
    assert!(matches!(&ak.key, PublicKey::Rsa { exponent: 65537, modulus } if modulus.len() == 256));

    let ak = Public::decode_2b(P256.ak).unwrap();
    assert_eq!(ak.scheme.unwrap().scheme, SignatureScheme::EcDsa);
    assert!(matches!(&ak.key, PublicKey::Ecc { curve: Curve::NistP256, x, y }
        if x.len() == 32 && y.len() == 32));
    assert_eq!(Public::decode_tpmt(&P256.ak[2..]).unwrap(), ak);
}

#[test]
fn spki_is_what_openssl_writes() {
    for (public, pem) in SPKI {
        assert_eq!(Public::decode_2b(public).unwrap().to_spki_pem(), pem);
    }
}

#[test]
fn each_fault_of_a_public_area_has_its_error() {
    let change = |area: PublicArea, fault: fn(&mut PublicArea)| {
        let mut area = area;
        fault(&mut area);
        area.encode_2b()
    };
    let rows = [
        // TPM_ALG_KEYEDHASH
        (change(rsa(), |a| a.kind = 0x0008), "TPMT_PUBLIC: type 0x8 is not supported"),
        (change(rsa(), |a| a.name_alg = 0x0010), "TPMT_PUBLIC: nameAlg 0x10 is not supported"),
        (change(rsa(), |a| a.policy = vec![0; 65]), "TPMT_PUBLIC: authPolicy has size 65, expected at most 64"),
        (change(rsa(), |a| a.symmetric = vec![0x00, 0x0a]), "TPMT_PUBLIC: symmetric 0xa is not supported"),
        // TPM_ALG_OAEP
        (change(rsa(), |a| a.scheme = vec![0x00, 0x17, 0x00, 0x0b]), "TPMT_PUBLIC: scheme 0x17 is not supported"),
        (change(rsa(), |a| a.scheme = vec![0x00, 0x18, 0x00, 0x0b]), "TPMT_PUBLIC: scheme 0x18 is not supported"),
        (change(ecc(), |a| a.scheme = vec![0x00, 0x14, 0x00, 0x0b]), "TPMT_PUBLIC: scheme 0x14 is not supported"),
        (change(rsa(), |a| a.scheme = vec![0x00, 0x14, 0x00, 0x99]), "TPMT_PUBLIC: scheme.hash 0x99 is not supported"),
        (
            change(rsa(), |a| a.parameters[0..2].copy_from_slice(&2047_u16.to_be_bytes())),
            "TPMT_PUBLIC: keyBits 0x7ff is not supported",
        ),
        (
            change(rsa(), |a| a.parameters[0..2].copy_from_slice(&3072_u16.to_be_bytes())),
            "TPMT_PUBLIC: unique has size 256, expected keyBits / 8",
        ),
        (change(rsa(), |a| a.unique = sized(&[])), "TPMT_PUBLIC: unique has size 0, expected keyBits / 8"),
        (
            // TPM_ECC_BN_P256
            change(ecc(), |a| a.parameters[1] = 0x10),
            "TPMT_PUBLIC: curveID 0x10 is not supported",
        ),
        (
            change(ecc(), |a| a.parameters = vec![0x00, 0x03, 0x00, 0x20, 0x00, 0x99]),
            "TPMT_PUBLIC: kdf.hash 0x99 is not supported",
        ),
        (
            change(ecc(), |a| a.unique = [sized(&[]), sized(&[1; 32])].concat()),
            "TPMT_PUBLIC: unique.x has size 0, expected 1 to the size of the curve's field",
        ),
        (
            change(ecc(), |a| a.unique = [sized(&[1; 32]), sized(&[1; 33])].concat()),
            "TPMT_PUBLIC: unique.y has size 33, expected 1 to the size of the curve's field",
        ),
        (change(rsa(), |a| a.unique.push(0)), "TPMT_PUBLIC is followed by 1 surplus bytes"),
        ([rsa().encode_2b(), vec![0, 0]].concat(), "TPM2B_PUBLIC is followed by 2 surplus bytes"),
        ([vec![0xff, 0xff], rsa().encode_tpmt()].concat(), "TPM2B_PUBLIC ends inside publicArea"),
        (vec![0; 1025], "TPM2B_PUBLIC has 1025 bytes, at most 1024 are accepted"),
    ];
    for (bytes, expected) in rows {
        assert_eq!(Public::decode_2b(&bytes).unwrap_err().to_string(), expected);
    }
    let error = Public::decode_tpmt(&[0; 1023]).unwrap_err();
    assert_eq!(error.to_string(), "TPMT_PUBLIC has 1023 bytes, at most 1022 are accepted");
}

#[test]
fn every_prefix_of_a_public_area_is_truncated() {
    for good in [RSA2048.ek, RSA2048.ak, P256.ek, P256.ak] {
        for len in 0..good.len() {
            let error = Public::decode_2b(&good[..len]).unwrap_err();
            assert!(matches!(error, DecodeError::Truncated { .. }), "{len} bytes: {error}");
            if let Some(tpmt) = good.get(2..len) {
                let error = Public::decode_tpmt(tpmt).unwrap_err();
                assert!(matches!(error, DecodeError::Truncated { .. }), "{len} bytes: {error}");
            }
        }
    }
}

#[test]
fn flipped_bits_are_decoded_or_refused_without_a_panic() {
    for good in [RSA2048.ek, RSA2048.ak, P256.ek, P256.ak] {
        for byte in 0..good.len() {
            for bit in 0..8 {
                let mut changed = good.to_vec();
                changed[byte] ^= 1 << bit;
                if let Ok(public) = Public::decode_2b(&changed) {
                    // Whatever decodes must have a name other than the good one.
                    let good = Public::decode_2b(good).unwrap();
                    assert_ne!(public.name().ok(), good.name().ok());
                    assert!(public.to_spki_pem().starts_with("-----BEGIN PUBLIC KEY-----\n"));
                }
            }
        }
    }
}

#[test]
fn only_an_attestation_key_is_one() {
    let refused = |area: PublicArea, fault: fn(&mut PublicArea)| {
        let mut area = area;
        fault(&mut area);
        AkPublic::try_from(area.decode()).unwrap_err().to_string()
    };
    let rows = [
        (refused(rsa(), |a| a.attributes &= !0x2), "the key is no attestation key: attribute fixedTPM is not set"),
        (refused(rsa(), |a| a.attributes &= !0x10), "the key is no attestation key: attribute fixedParent is not set"),
        (
            refused(rsa(), |a| a.attributes &= !0x20),
            "the key is no attestation key: attribute sensitiveDataOrigin is not set",
        ),
        (
            refused(rsa(), |a| a.attributes &= !0x1_0000),
            "the key is no attestation key: attribute restricted is not set",
        ),
        (refused(rsa(), |a| a.attributes &= !0x4_0000), "the key is no attestation key: attribute sign is not set"),
        (refused(rsa(), |a| a.attributes |= 0x2_0000), "the key is no attestation key: attribute decrypt is set"),
        (refused(rsa(), |a| a.scheme = vec![0x00, 0x10]), "the attestation key is bound to no signature scheme"),
        (
            refused(rsa(), |a| a.scheme = vec![0x00, 0x16, 0x00, 0x0b]),
            "the attestation key signs with rsapss; only rsassa and ecdsa are verified",
        ),
        (
            refused(ecc(), |a| a.scheme = vec![0x00, 0x1c, 0x00, 0x0b]),
            "the attestation key signs with ecschnorr; only rsassa and ecdsa are verified",
        ),
        (
            refused(rsa(), |a| a.scheme = vec![0x00, 0x14, 0x00, 0x04]),
            "the attestation key signs with hash sha1; only sha256, sha384 and sha512 are verified",
        ),
        (
            refused(ecc(), |a| a.scheme = vec![0x00, 0x18, 0x00, 0x12]),
            "the attestation key signs with hash sm3_256; only sha256, sha384 and sha512 are verified",
        ),
        (
            refused(rsa(), |a| {
                a.parameters[0..2].copy_from_slice(&1024_u16.to_be_bytes());
                a.unique = sized(&[0xff; 128]);
            }),
            "the attestation key is RSA with 1024 bits, at least 2048 are demanded",
        ),
        (refused(rsa(), |a| a.unique[2] = 0x7f), "the attestation key's RSA modulus is malformed"),
        (refused(rsa(), |a| a.unique[257] = 0x02), "the attestation key's RSA modulus is malformed"),
        (refused(rsa(), |a| a.parameters[5] = 3), "the attestation key's RSA exponent 3 is not accepted"),
        (
            refused(rsa(), |a| a.parameters[3..6].copy_from_slice(&[1, 0, 2])),
            "the attestation key's RSA exponent 65538 is not accepted",
        ),
        (
            refused(ecc(), |a| {
                a.parameters[1] = 0x20;
            }),
            "the attestation key is on curve SM2; only P-256, P-384 and P-521 are verified",
        ),
        (
            refused(ecc(), |a| {
                a.parameters[1] = 0x01;
                a.unique = [sized(&[1; 24]), sized(&[1; 24])].concat();
            }),
            "the attestation key is on curve P-192; only P-256, P-384 and P-521 are verified",
        ),
        (refused(ecc(), |a| a.unique[33] ^= 1), "the attestation key is not a point on curve P-256"),
        (
            // Beyond the prime of the field.
            refused(ecc(), |a| a.unique[2..34].fill(0xff)),
            "the attestation key is not a point on curve P-256",
        ),
        (
            refused(ecc(), |a| a.unique = [sized(&[0]), sized(&[0])].concat()),
            "the attestation key is not a point on curve P-256",
        ),
    ];
    for (found, expected) in rows {
        assert_eq!(found, expected);
    }
}

#[test]
fn every_accepted_kind_of_attestation_key_is_accepted() {
    for hash in [Sha256, Sha384, Sha512] {
        for key in [Key::rsa(), &Key::p256(), &Key::p384(), &Key::p521()] {
            let ak = key.ak(hash);
            assert_eq!(ak.hash(), hash);
            assert_eq!(ak.public().object_attributes.0, 0x0005_0072);
        }
    }
    // The explicit spelling of the default exponent.
    let mut area = rsa();
    area.parameters[2..6].copy_from_slice(&65537_u32.to_be_bytes());
    assert_eq!(AkPublic::try_from(area.decode()).unwrap().scheme(), SignatureScheme::RsaSsa);
}

#[test]
fn coordinates_may_lack_leading_zeros() {
    // The first scalar below whose point has an x with a leading zero byte.
    let (secret, point) = (1_u16..)
        .find_map(|secret| {
            let mut bytes = [0; 32];
            bytes[30..].copy_from_slice(&secret.to_be_bytes());
            let key = p256::ecdsa::SigningKey::from_slice(&bytes).unwrap();
            let point = key.verifying_key().to_encoded_point(false);
            (point.as_bytes()[1] == 0).then_some((key, point))
        })
        .unwrap();
    let (x, y) = point.as_bytes()[1..].split_at(32);
    let padded = Key::P256(secret).public(Sha256);
    let mut short = padded.clone();
    short.unique = [sized(&x[1..]), sized(y)].concat();
    assert_eq!(short.decode().key, padded.decode().key);
    assert_eq!(short.decode().to_spki_pem(), padded.decode().to_spki_pem());
    // The Name covers the bytes as the TPM wrote them.
    assert_ne!(short.decode().name().unwrap(), padded.decode().name().unwrap());
    AkPublic::try_from(short.decode()).unwrap();

    // P-521 coordinates of 65 bytes, as some TPMs write them.
    let mut area = Key::p521().public(Sha512);
    let PublicKey::Ecc { x, y, .. } = area.decode().key else { panic!("not an ECC key") };
    let cut = |value: &[u8]| value.iter().copied().skip_while(|byte| *byte == 0).collect::<Vec<_>>();
    area.unique = [sized(&cut(&x)), sized(&cut(&y))].concat();
    AkPublic::try_from(area.decode()).unwrap();
}
