"""Which concepts do units and words detect?"""
