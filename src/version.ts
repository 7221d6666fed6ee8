// The version, put in by the build; "dev" when run from source.
declare const TRAM_VERSION: string | undefined;

export const VERSION: string = typeof TRAM_VERSION === "string" ? TRAM_VERSION : "dev";
