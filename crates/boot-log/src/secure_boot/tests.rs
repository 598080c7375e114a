// SPDX-License-Identifier: Apache-2.0
use tpm_wire::hash::HashAlgorithm::Sha256;

use super::*;
use crate::testing::*;

/// What the log shows against the PCR values that it leads to itself.
fn shown(log: Builder) -> Result<SecureBoot, String> {
    let log = log.parse();
    let quoted = quoted(&log, Sha256);
    log.verify(&quoted).map(|verified| verified.secure_boot()).map_err(|error| error.to_string())
}

fn new() -> Builder {
    Builder::new(&[Sha256])
}

#[test]
fn the_variable_is_laid_out_as_firmware_does() {
    let expected = "61dfe48bca93d211aa0d00e098032b8c0a00000000000000010000000000000053006500630075007200650042006f\
                    006f00740001";
    assert_eq!(hex::encode(variable_data(&[1])), expected);
    // The digest that PCs with secure boot have in their logs.
    assert_eq!(
        hex::encode(Sha256.digest(&variable_data(&[1])).unwrap()),
        "ccfc4bb32888a345bc8aeadaba552b627d99348c767681ab3141f5b01e40a40e"
    );
}

#[test]
fn the_variable_is_known_by_guid_and_name() {
    for value in [&[][..], &[0], &[1], &[2, 3, 4]] {
        assert!(is_named_in(&variable_data(value)));
    }
    let ours = variable_data(&[]);
    for place in (0..24).chain(32..ours.len()) {
        let mut other = ours.clone();
        other[place] ^= 1;
        assert!(!is_named_in(&other), "{place}");
    }
    for len in 0..ours.len() {
        assert!(!is_named_in(&ours[..len]), "{len}");
    }
    assert!(!is_named_in(&variable(0x61, "SecureBoot", &[1])));
}

#[test]
fn honest_logs() {
    let other = variable(0x0a, "PK", &[1]);
    let rows = [
        (new().secure_boot(&[1]).separator(7), SecureBoot::On),
        (new().secure_boot(&[0]).separator(7), SecureBoot::Off),
        (new().secure_boot(&[]).separator(7), SecureBoot::Off),
        (new().secure_boot(&[2]).separator(7), SecureBoot::NotShown),
        (new().secure_boot(&[1, 0]).separator(7), SecureBoot::NotShown),
        (new().separator(7), SecureBoot::NotShown),
        (new().event(7, EV_EFI_VARIABLE_DRIVER_CONFIG, &other).separator(7), SecureBoot::NotShown),
        (new().event(7, EV_EFI_VARIABLE_DRIVER_CONFIG, &other).secure_boot(&[1]).separator(7), SecureBoot::On),
        // A vendor's own variable of the same name.
        (
            new().event(7, EV_EFI_VARIABLE_DRIVER_CONFIG, &variable(0x0a, "SecureBoot", &[1])).separator(7),
            SecureBoot::NotShown,
        ),
        // Without a separator nobody can tell who measured.
        (new().secure_boot(&[1]), SecureBoot::NotShown),
        (new().secure_boot(&[1]).separator(0), SecureBoot::NotShown),
        // After the separator anybody can have measured.
        (new().separator(7).secure_boot(&[1]), SecureBoot::NotShown),
        (new().separator(7).secure_boot(&[1]).separator(7), SecureBoot::NotShown),
        (new().secure_boot(&[1]).separator(7).secure_boot(&[0]), SecureBoot::On),
        (new().secure_boot(&[0]).separator(7).secure_boot(&[1]).separator(7), SecureBoot::Off),
        // Twice.
        (new().secure_boot(&[1]).secure_boot(&[0]).separator(7), SecureBoot::NotShown),
        (new().secure_boot(&[0]).secure_boot(&[1]).separator(7), SecureBoot::NotShown),
        (new().secure_boot(&[1]).secure_boot(&[1]).separator(7), SecureBoot::NotShown),
        (new().secure_boot(&[1]).secure_boot(&[1]).secure_boot(&[1]).separator(7), SecureBoot::NotShown),
        // Separators of an error, and of the older form.
        (new().secure_boot(&[1]).event(7, EV_SEPARATOR, &[1, 0, 0, 0]).separator(7), SecureBoot::NotShown),
        (new().secure_boot(&[1]).event(7, EV_SEPARATOR, &[0xff; 4]).separator(7), SecureBoot::NotShown),
        // Other PCRs do not count.
        (
            new().event(1, EV_EFI_VARIABLE_DRIVER_CONFIG, &variable_data(&[1])).separator(1).separator(7),
            SecureBoot::NotShown,
        ),
    ];
    for (row, (log, expected)) in rows.into_iter().enumerate() {
        assert_eq!(shown(log), Ok(expected), "row {row}");
    }
}

/// Secure boot was off; the attacker extends PCR 7 as a boot with secure boot would, and labels the
/// firmware's events as something else.
#[test]
fn labels_do_not_turn_off_into_on() {
    let off = variable_data(&[0]);
    for hidden in [EV_S_CRTM_VERSION, EV_SEPARATOR, EV_IPL, EV_EFI_ACTION, EV_EFI_VARIABLE_AUTHORITY] {
        for data in [&off[..], b"", b"nothing to see here"] {
            let forged =
                new().measured(7, hidden, &off, data).measured(7, hidden, &[0; 4], data).secure_boot(&[1]).separator(7);
            assert_eq!(shown(forged), Ok(SecureBoot::Off));
        }
    }
    // A label alone makes no separator, so what follows it is seen.
    let forged = new().secure_boot(&[1]).event(7, EV_SEPARATOR, b"none").secure_boot(&[0]).separator(7);
    assert_eq!(shown(forged), Ok(SecureBoot::NotShown));
}

#[test]
fn data_that_were_not_measured_are_refused_before_the_separator() {
    let lie = |log: Builder| log.measured(7, EV_EFI_VARIABLE_DRIVER_CONFIG, &variable_data(&[0]), &variable_data(&[1]));
    assert_eq!(
        shown(lie(new().separator(0)).separator(7)),
        Err("the data of event 2 of the boot log, SecureBoot, are not what PCR 7 was extended with".to_owned())
    );
    // Also without a separator, where nothing is shown.
    assert!(shown(lie(new())).is_err());
    // Later it says nothing, true or not.
    assert_eq!(shown(lie(new().secure_boot(&[1]).separator(7))), Ok(SecureBoot::On));
}
