/**
 * Which addresses an outgoing connection may have: public ones, and what the operator allows by name or range.
 *
 * The guard stands in two places, since each alone is bypassed: at the lookup, where every resolved address is checked
 * (and the checked one is connected to, so a second answer of the name server changes nothing), and before the
 * connection, where hosts that are literals and never looked up are.
 */
import { type LookupAddress, type LookupOptions, lookup } from 'node:dns';
import { BlockList, isIP } from 'node:net';

/** Special-purpose ranges of IANA's registries; none of them is a provider's. */
const FORBIDDEN_V4 = [
  '0.0.0.0/8',
  '10.0.0.0/8',
  '100.64.0.0/10',
  '127.0.0.0/8',
  '169.254.0.0/16',
  '172.16.0.0/12',
  '192.0.0.0/24',
  '192.0.2.0/24',
  '192.88.99.0/24',
  '192.168.0.0/16',
  '198.18.0.0/15',
  '198.51.100.0/24',
  '203.0.113.0/24',
  '224.0.0.0/4',
  '240.0.0.0/4',
];
/** Everything outside global unicast, and the parts of it that are special or carry an IPv4 address. */
const PUBLIC_V6 = '2000::/3';
const FORBIDDEN_V6 = ['2001::/23', '2001:db8::/32', '2002::/16', '3fff::/20'];

export class AddressRefused extends Error {
  override readonly name = 'AddressRefused';
  readonly code = 'ADDRESS_REFUSED';
}

export interface AddressGuard {
  /** Throws AddressRefused for a host that is an address and no allowed one; names pass, their addresses do not yet. */
  assertHost(host: string): void;
  /** As `net.connect` wants it: fails unless every address of the name is allowed. */
  lookup(
    host: string,
    options: LookupOptions,
    callback: (error: Error | null, address: string | LookupAddress[], family?: number) => void,
  ): void;
}

/**
 * `trusted`: what the operator trusts: addresses, CIDR ranges (`10.1.0.0/16`), host names, and names below a name
 * (`*.corp.example`).
 */
export function createAddressGuard(trusted: readonly string[]): AddressGuard {
  const allow = trusted.map((entry) => entry.replace(/^\[|\]$/g, ''));
  const forbiddenV4 = listOf(FORBIDDEN_V4);
  const publicV6 = listOf([PUBLIC_V6]);
  const forbiddenV6 = listOf(FORBIDDEN_V6);
  const ranges = allow.filter((entry) => isIP(entry.split('/')[0] ?? '') !== 0);
  const allowed = listOf(ranges);
  const names = allow.filter((entry) => !ranges.includes(entry)).map((name) => name.toLowerCase());
  const exactNames = new Set(names);
  const suffixes = names.filter((name) => name.startsWith('*.')).map((name) => name.slice(1));

  const isAllowed = (address: string): boolean => {
    const family = isIP(address);
    if (family === 0) return false;
    if (allowed.check(address, family === 4 ? 'ipv4' : 'ipv6')) return true;
    if (family === 4) return !forbiddenV4.check(address, 'ipv4');
    return publicV6.check(address, 'ipv6') && !forbiddenV6.check(address, 'ipv6');
  };
  const isTrustedName = (name: string): boolean =>
    exactNames.has(name) || suffixes.some((suffix) => name.endsWith(suffix));
  const refused = (address: string): AddressRefused => new AddressRefused(`the address ${address} may not be called`);
  const bare = (host: string): string => (host.startsWith('[') ? host.slice(1, -1) : host).toLowerCase();

  return {
    assertHost(host) {
      const name = bare(host);
      if (isIP(name) !== 0 && !isAllowed(name)) throw refused(name);
    },
    lookup(host, options, callback) {
      lookup(host, { ...options, all: true }, (error, addresses) => {
        if (error !== null) return callback(error, []);
        const wrong = isTrustedName(bare(host)) ? undefined : addresses.find(({ address }) => !isAllowed(address));
        if (wrong !== undefined) return callback(refused(wrong.address), []);
        const [first] = addresses;
        if (first === undefined) return callback(new Error(`no address for ${host}`), []);
        if (options.all === true) callback(null, addresses);
        else callback(null, first.address, first.family);
      });
    },
  };
}

function listOf(ranges: readonly string[]): BlockList {
  const list = new BlockList();
  for (const range of ranges) {
    const [address = '', bits] = range.split('/');
    const family = isIP(address) === 6 ? 'ipv6' : 'ipv4';
    if (bits === undefined) list.addAddress(address, family);
    else list.addSubnet(address, Number(bits), family);
  }
  return list;
}
